"""Depth comes in as the same metres, whoever recorded it: ROS, RealSense, LeRobot, Hugging Face, a robot's policy."""

import io
import json
import struct

import numpy as np
import pytest
from PIL import Image

from defm_rl.deploy.runtime.record import Record
from defm_rl.depth import normalize_depth, normalize_inverse_depth
from defm_rl.recordings import RecordingError, find_parts, load_recording, read_frames, rosbag

# Columns of 1.0 to 1.7 m in millimetres, each frame 0.1 m farther than the one before; a hole in the corner.
MM = np.stack([np.tile(np.arange(1000, 1800, 100, dtype=np.uint16), (4, 1)) + 100 * index for index in range(3)])
MM[:, 0, 0] = 0
METRES = MM / np.float32(1000)


def png(image, form="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form)
    return buffer.getvalue()


def check(source, frames=METRES, abs=1e-3, **settings):  # noqa: A002  pytest's name
    loaded = load_recording(source, frames.shape[1:], **settings)
    assert loaded.problems == []
    assert loaded.frames == pytest.approx(frames, abs=abs)
    assert loaded.frames.dtype == np.float32
    one_by_one = np.stack([frame.depth for frame in read_frames(source, **settings)])
    np.testing.assert_array_equal(one_by_one, loaded.frames)


def image_message(store, frame, encoding, *, padding=0, big_endian=False):
    types = store.types
    stamp = types["builtin_interfaces/msg/Time"](sec=1, nanosec=0)
    seq = {"seq": 0} if "seq" in types["std_msgs/msg/Header"].__dataclass_fields__ else {}
    header = types["std_msgs/msg/Header"](stamp=stamp, frame_id="", **seq)
    if not isinstance(frame, np.ndarray):
        return types["sensor_msgs/msg/CompressedImage"](header, encoding, np.frombuffer(frame, np.uint8))
    height, width = frame.shape
    rows = np.ascontiguousarray(frame.astype(frame.dtype.newbyteorder(">" if big_endian else "<"))).view(np.uint8)
    rows = np.pad(rows.reshape(height, -1), ((0, 0), (0, padding)))
    return types["sensor_msgs/msg/Image"](
        header=header,
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=int(big_endian),
        step=rows.shape[1],
        data=rows.ravel(),
    )


def write_bag(path, topics, *, ros=2):
    """Topics by name: messages of one type, or a float for RealSense's option."""
    from rosbags import rosbag1, rosbag2

    store = rosbag._types("ROS1_NOETIC" if ros == 1 else "LATEST")
    writer = rosbag1.Writer(path) if ros == 1 else rosbag2.Writer(path, version=9)
    serialize = store.serialize_ros1 if ros == 1 else store.serialize_cdr
    with writer:
        for topic, messages in topics.items():
            made = messages(store) if callable(messages) else messages
            connection = writer.add_connection(topic, made[0].__msgtype__, typestore=store)
            for index, message in enumerate(made):
                writer.write(connection, index * 10**8, serialize(message, message.__msgtype__))


def images(frames, encoding, **settings):
    return lambda store: [image_message(store, frame, encoding, **settings) for frame in frames]


INVERSE_A, INVERSE_B = 2000.0, 0.5


def compressed_depth(frame):
    """As compressed_depth_image_transport packs it."""
    if frame.dtype == np.uint16:
        return struct.pack("<i2f", 0, 0, 0) + png(frame)
    quantized = np.where(frame > 0, INVERSE_A / np.maximum(frame, 1e-3) + INVERSE_B, 0).round().astype(np.uint16)
    return struct.pack("<i2f", 0, INVERSE_A, INVERSE_B) + png(quantized)


@pytest.mark.parametrize(
    ("frames", "encoding", "settings"),
    [
        (MM, "16UC1", {}),
        (MM, "mono16", {"padding": 6, "big_endian": True}),
        (np.where(MM > 0, METRES, np.nan), "32FC1", {"padding": 4}),
        ([png(frame) for frame in MM], "16UC1; png compressed ", {}),
        ([compressed_depth(frame) for frame in MM], "16UC1; compressedDepth png", {}),
        ([compressed_depth(frame) for frame in METRES], "32FC1; compressedDepth", {}),
    ],
)
@pytest.mark.parametrize("ros", [1, 2])
@pytest.mark.sweep(5)
def test_ros_bags(tmp_path, frames, encoding, settings, ros):
    path = tmp_path / ("a.bag" if ros == 1 else "a")
    colour = images([np.zeros((4, 24), np.uint8)], "rgb8")
    write_bag(path, {"/camera/color": colour, "/camera/depth": images(frames, encoding, **settings)}, ros=ros)
    check(path)
    assert [part.name for part in find_parts(path)] == [f"{path}#/camera/depth"]


def test_a_bag_with_two_cameras_asks_for_one(tmp_path):
    write_bag(tmp_path / "a", {"/left": images(MM, "16UC1"), "/right": images(MM * 2, "16UC1")})
    with pytest.raises(RecordingError, match=r"/left, /right: name one by .*a#/left"):
        load_recording(tmp_path / "a", (4, 8))
    check(f"{tmp_path / 'a'}#/right", METRES * 2)


def test_a_bag_of_a_single_file_and_what_is_none(tmp_path):
    write_bag(tmp_path / "a", {"/depth": images(MM, "16UC1")})
    check(next((tmp_path / "a").glob("*.db3")))
    (tmp_path / "b.bag").write_bytes(b"no bag")
    with pytest.raises(RecordingError, match=r"b\.bag cannot be read as a ROS bag"):
        load_recording(tmp_path / "b.bag", (4, 8))
    write_bag(tmp_path / "c", {"/color": images([np.zeros((4, 24), np.uint8)], "rgb8")})
    with pytest.raises(RecordingError, match="of its topics depth is none of /color"):
        find_parts(tmp_path / "c")


def test_rvl_compression_is_refused_with_what_to_do(tmp_path):
    write_bag(tmp_path / "a", {"/depth": images([bytes(40)], "16UC1; compressedDepth rvl")})
    with pytest.raises(RecordingError, match="only PNG is read"):
        load_recording(tmp_path / "a", (4, 8))


@pytest.mark.parametrize("ros", [1, 2])
@pytest.mark.sweep(2)
def test_realsense_bags_say_what_a_count_is(tmp_path, ros):
    """The topics are those of RealSense's recorders: SDK 2.56 wrote ROS 1, SDK 2.59 writes ROS 2 with strings."""
    sensor = "/device_0/sensor_0"

    def units(store):
        return [
            store.types["std_msgs/msg/Float32"](np.float32(1e-4))
            if ros == 1
            else store.types["std_msgs/msg/String"]("0.0001")
        ]

    depth = images(MM * 10, "mono16")
    topic = f"{sensor}/Depth_0/image/data"
    path = tmp_path / ("d405.bag" if ros == 1 else "d405")
    write_bag(path, {topic: depth, f"{sensor}/option/Depth_Units/value": units}, ros=ros)
    check(path)


def lerobot(folder, feature, rows=None, name="observation.images.depth"):
    import pyarrow
    import pyarrow.parquet

    (folder / "meta").mkdir(parents=True)
    colour = {"dtype": "video", "shape": [4, 8, 3], "info": {"video.is_depth_map": False}}
    info = {"codebase_version": "v3.0", "features": {"observation.images.rgb": colour, name: feature}}
    (folder / "meta" / "info.json").write_text(json.dumps(info))
    if rows is not None:
        data = folder / "data" / "chunk-000"
        data.mkdir(parents=True)
        pyarrow.parquet.write_table(pyarrow.table({name: rows}), data / "file-000.parquet")
    return folder


@pytest.mark.parametrize(
    ("frames", "form", "info"),
    [
        (MM, "TIFF", {"is_depth_map": True, "depth_unit": "mm"}),
        (METRES, "TIFF", {"is_depth_map": True, "depth_unit": "m"}),
        (MM, "PNG", {"video.is_depth_map": True}),
    ],
)
@pytest.mark.sweep(3)
def test_lerobot_images(tmp_path, frames, form, info):
    feature = {"dtype": "image", "shape": [4, 8, 1], "info": info}
    check(lerobot(tmp_path / "set", feature, [{"bytes": png(frame, form), "path": None} for frame in frames]))


def test_lerobot_arrays(tmp_path):
    feature = {"dtype": "uint16", "shape": [4, 8, 1]}
    check(lerobot(tmp_path / "set", feature, [frame[..., None].tolist() for frame in MM], "observation.depth"))


def test_lerobot_arrays_of_more_than_16_bits(tmp_path):
    feature = {"dtype": "int32", "shape": [4, 8, 1]}
    counts = MM.astype(np.int32) * 50  # of 0.02 mm, to 95,000
    counts[0, 0, 1] = -1
    expected = np.where(counts > 0, counts * np.float32(2e-5), 0)
    rows = [frame[..., None].tolist() for frame in counts]
    check(lerobot(tmp_path / "set", feature, rows, "observation.depth"), expected, unit=2e-5)


def write_video(path, codes, pix_fmt="gray12le"):
    import av

    path.parent.mkdir(parents=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1" if pix_fmt == "gray12le" else "mpeg4", rate=30)
        stream.height, stream.width, stream.pix_fmt = *codes.shape[1:], pix_fmt
        for image in codes:
            form = "gray12le" if pix_fmt == "gray12le" else "gray"
            frame = av.VideoFrame.from_ndarray(image, format=form)
            container.mux(stream.encode(frame if form == pix_fmt else frame.reformat(format=pix_fmt)))
        container.mux(stream.encode())


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("use_log", [True, False])
@pytest.mark.sweep(5)
def test_lerobot_video_of_quantized_depth(tmp_path, version, use_log):
    """Depth of several metres in steps of 12 bits, as LeRobot writes it; its holes come out as holes."""
    low, high, shift = 0.05, 6.0, 2.0
    frames = np.repeat(np.repeat(METRES, 8, axis=1), 8, axis=2)
    scale = np.log if use_log else lambda x: x
    offset = shift if use_log else 0
    share = (scale(frames + offset) - scale(low + offset)) / (scale(high + offset) - scale(low + offset))
    codes = np.rint(share * 4095).clip(0, 4095).astype(np.uint16)
    info = {"is_depth_map": True, "video.depth_min": low, "video.depth_max": high, "video.shift": shift}
    feature = {"dtype": "video", "shape": [32, 64, 1], "info": {**info, "video.use_log": use_log}}
    folder = lerobot(tmp_path / "set", feature)
    name = "observation.images.depth"
    place = f"videos/{name}/chunk-000/file-000.mkv" if version == "v3.0" else f"videos/chunk-000/{name}/episode_0.mkv"
    write_video(folder / place, codes)
    check(folder, frames, abs=2e-3)
    assert len(load_recording(folder, (32, 64), limit=2).frames) == 2


def test_lerobot_video_of_8_bits_is_refused(tmp_path):
    feature = {"dtype": "video", "shape": [32, 64, 1], "info": {"video.is_depth_map": True}}
    folder = lerobot(tmp_path / "set", feature)
    codes = np.full((3, 32, 64), 100, np.uint8)
    write_video(folder / "videos/observation.images.depth/chunk-000/file-000.mp4", codes, "yuv420p")
    with pytest.raises(RecordingError, match="video of 8 bits"):
        load_recording(folder, (32, 64))


def test_lerobot_without_depth_says_what_there_is(tmp_path):
    folder = lerobot(tmp_path / "set", {"dtype": "float32", "shape": [7]}, name="observation.state")
    with pytest.raises(RecordingError, match=r"depth is none of observation\.images\.rgb, observation\.state"):
        find_parts(folder)


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.slow  # for the import of datasets
@pytest.mark.usefixtures("hub_cache")
@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_hugging_face_datasets(tmp_path, form):
    import datasets

    features = datasets.Features({"id": datasets.Value("string"), "depth": datasets.Image()})
    rows = {"id": ["a", "b", "c"], "depth": [{"bytes": png(frame), "path": None} for frame in MM]}
    data = datasets.Dataset.from_dict(rows, features=features)
    folder = tmp_path / "set"
    if form == "saved":
        datasets.DatasetDict({"train": data}).save_to_disk(folder)
    else:
        (folder / "data").mkdir(parents=True)
        data.to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    check(folder)
    check(f"{folder}#train")
    with pytest.raises(RecordingError, match=r"no split 'test'; there is: train"):
        find_parts(f"{folder}#test")


def test_inverse_depth_gives_the_networks_what_they_were_trained_with(tmp_path):
    inverse = np.random.default_rng(0).integers(0, 60_000, (32, 64)).astype(np.uint16)
    Image.fromarray(inverse).save(tmp_path / "a.png")
    frame = load_recording(tmp_path, (32, 64), unit="inverse").frames[0]
    assert frame.min() == pytest.approx(10 * np.exp(-5), abs=1e-4)
    assert frame.max() == pytest.approx(10, abs=1e-4)
    ours, published = normalize_depth(frame), normalize_inverse_depth(inverse)
    assert float((ours - published).abs().max()) < 1e-4


def test_what_a_robots_policy_wrote_is_a_recording(tmp_path):
    record = Record(10)
    for frame in METRES:
        record.add(depth=frame[None], state=np.zeros(3, np.float32), time_s=0.0)
    record.write(tmp_path / "last.npz")
    check(tmp_path / "last.npz")
    with pytest.raises(RecordingError, match="expected an array called 'front'"):
        load_recording(f"{tmp_path / 'last.npz'}#front", (4, 8))


def test_cameras_that_warm_up_are_read_whatever_the_limit(tmp_path):
    for index in range(4):
        np.save(tmp_path / f"{index}.npy", np.concatenate([np.zeros_like(MM[:1]), MM]))
    loaded = load_recording(tmp_path, (4, 8))
    assert loaded.problems == []
    assert all(frame.any() for frame in loaded.originals)
    for limit in (1, 4, 8):
        frames = [frame.depth for frame in read_frames(tmp_path, limit=limit)]
        assert len(frames) == len(load_recording(tmp_path, (4, 8), limit=limit).frames) == limit
        assert np.any(frames)
    np.save(tmp_path / "2.npy", np.zeros_like(MM))
    with pytest.raises(RecordingError, match=r"2\.npy: sees nothing"):
        list(read_frames(tmp_path, limit=4))
    assert len(load_recording(tmp_path, (4, 8), limit=4).problems) == 1


def test_a_missing_reader_says_its_extra(tmp_path, monkeypatch):
    import sys

    (tmp_path / "a.bag").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "rosbags.rosbag1", None)
    with pytest.raises(RecordingError, match=r"pip install 'defm-rl\[recordings\]'"):
        find_parts(tmp_path / "a.bag")
