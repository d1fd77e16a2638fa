"""Recorded depth comes in as metres, whatever it was saved as; what cannot be read is named and left out."""

import re

import numpy as np
import pytest
from PIL import Image

from defm_rl.experiments.config import ConfigError
from defm_rl.experiments.report.recorded import load_recorded

SIZE = (4, 8)
MM = np.tile(np.arange(1000, 1800, 100, dtype=np.uint16), (4, 1))  # columns of 1.0 to 1.7 m
METRES = MM / np.float32(1000)


def load(path, **settings):
    return load_recorded(path, SIZE, **settings)


def test_every_format_gives_the_same_metres(tmp_path):
    Image.fromarray(MM).save(tmp_path / "a.png")
    np.save(tmp_path / "b.npy", MM)
    np.save(tmp_path / "c.npy", METRES[None].astype(np.float64))
    np.savez(tmp_path / "d.npz", depth=METRES[None, None].astype(np.float16), time=np.arange(3))
    np.savez(tmp_path / "e.npz", anything=np.stack([MM, MM])[..., None])
    recording = load(tmp_path)
    assert recording.frames.dtype == np.float32
    assert recording.frames.shape == (6, *SIZE)
    assert recording.frames == pytest.approx(np.broadcast_to(METRES, (6, *SIZE)), abs=1e-3)
    assert (recording.files, recording.problems) == (5, [])


def test_eight_bits_need_a_unit(tmp_path):
    centimetres = (METRES * 100).round().astype(np.uint8)
    Image.fromarray(centimetres).save(tmp_path / "grey.png")
    Image.fromarray(np.dstack([centimetres] * 3)).save(tmp_path / "grey_in_colour.png")
    with pytest.raises(ConfigError, match=re.escape(str(tmp_path / "grey.png")) + ".*recorded_unit=0.01"):
        load(tmp_path)
    assert load(tmp_path, unit=0.01).frames == pytest.approx(np.stack([METRES] * 2), abs=0.005)


def test_what_cannot_be_read_is_named_and_the_rest_is_read(tmp_path):
    Image.fromarray(MM).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "bad_half.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bad_text.png").write_text("no picture")
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 8, 3), np.uint8)).save(tmp_path / "bad_colour.png")
    (tmp_path / "bad_empty.npy").write_bytes(b"")
    (tmp_path / "bad_zip.npz").write_bytes(b"PK\x03\x04 and nothing more")
    np.savez(tmp_path / "bad_names.npz", left=MM, right=MM)
    np.save(tmp_path / "bad_shape.npy", np.zeros((2, 3, 4, 5), np.float32))
    np.save(tmp_path / "bad_holes.npy", np.zeros((4, 8), np.uint16))
    np.save(tmp_path / "bad_unit.npy", MM.astype(np.float32))
    np.save(tmp_path / "bad_objects.npy", np.array([{}, {}]), allow_pickle=True)
    np.save(tmp_path / "bad_mask.npy", MM > 0)
    recording = load(tmp_path)
    assert len(recording.frames) == recording.files == 1
    bad = sorted(path.name for path in tmp_path.glob("bad_*"))
    assert len(recording.problems) == len(bad) == 11
    for problem, name in zip(recording.problems, bad, strict=True):
        assert problem.startswith(str(tmp_path / name) + ": ")
    said = "\n".join(recording.problems)
    for hint in ("one channel", "left, right", "every pixel is a hole", "unit='mm'", "corrupt", "bool"):
        assert hint in said


def test_files_with_the_same_problem_are_one_line(tmp_path):
    Image.fromarray(MM).save(tmp_path / "good.png")
    for index in range(10):
        Image.fromarray((MM * 0 + 7).astype(np.uint8)).save(tmp_path / f"small_{index}.png")
        (tmp_path / f"text_{index}.png").write_text("no picture")
    few, text = load(tmp_path).problems
    assert few.startswith(f"{tmp_path / 'small_0.png'} and 9 others like it: ")
    assert text.startswith(f"{tmp_path / 'text_0.png'} and 9 others like it: cannot be read")


def test_frames_to_look_at_are_those_recorded(tmp_path):
    video = np.random.default_rng(0).uniform(1, 3, (9, 30, 50)).astype(np.float32)
    np.save(tmp_path / "video.npy", video)
    originals = load(tmp_path).originals
    assert len(originals) == 4
    np.testing.assert_array_equal(originals[0], video[0])
    np.testing.assert_array_equal(originals[-1], video[-1])


def test_a_folder_without_depth_says_so(tmp_path):
    with pytest.raises(ConfigError, match="is empty"):
        load(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"photo\.jpg.*\.png"):
        load(tmp_path)
    with pytest.raises(ConfigError, match="no such"):
        load(tmp_path / "nowhere")


def test_holes_stay_holes_and_nothing_lies_between_an_edge_and_a_hole(tmp_path):
    frame = np.full((60, 80), 2.0, np.float32)
    frame[20:40, 30:50] = 0
    frame[0, :5] = np.nan, np.inf, -np.inf, -1, 0
    np.save(tmp_path / "frame.npy", frame)
    frames = load_recorded(tmp_path, (15, 20)).frames
    assert set(np.unique(frames)) == {0.0, 2.0}
    assert (frames == 0).mean() == pytest.approx(20 * 20 / (60 * 80), abs=0.02)


def test_frames_of_another_shape_are_cropped_around_their_centre(tmp_path):
    frame = np.ones((80, 80), np.float32)
    frame[20:60] = 3  # the middle half, which is all that a frame twice as wide as high has room for
    np.save(tmp_path / "frame.npy", frame)
    assert (load(tmp_path).frames == 3).all()


def test_long_recordings_are_thinned_evenly(tmp_path):
    video = np.arange(1, 101, dtype=np.float32)[:, None, None] * np.ones((1, *SIZE), np.float32) / 10
    np.save(tmp_path / "a.npy", video)
    np.save(tmp_path / "b.npy", video + 20)
    frames = load(tmp_path, limit=10).frames[:, 0, 0]
    assert len(frames) == 10
    assert (frames < 15).sum() == 5
    assert frames[0] == pytest.approx(0.1)
    assert frames[-1] == pytest.approx(30)


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 1), (1, 4, 8), (1, 1, 4, 8), (1, 4, 8, 1)])
def test_a_frame_is_what_its_shape_says(tmp_path, shape):
    np.save(tmp_path / "a.npy", METRES.reshape(shape))
    assert load(tmp_path).frames == pytest.approx(METRES[None])


@pytest.mark.parametrize("shape", [(3, 4, 8), (3, 1, 4, 8), (3, 4, 8, 1)])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", ">u2", "i4"])
def test_a_video_is_what_its_shape_says(tmp_path, shape, dtype):
    video = np.stack([MM, MM + 100, MM + 200])
    metres = video / np.float32(1000)
    np.save(tmp_path / "a.npy", np.asfortranarray((metres if "f" in dtype else video).reshape(shape).astype(dtype)))
    assert load(tmp_path).frames == pytest.approx(metres, abs=1e-3)


def test_units_limits_and_saturated_pixels(tmp_path):
    counts = MM * 10
    counts[0] = 65535
    Image.fromarray(counts).save(tmp_path / "d405.png")
    frames = load(tmp_path, unit=0.0001, max_depth_m=1.45).frames[0]
    assert (frames[0] == 0).all()
    assert frames[1:] == pytest.approx(np.where(METRES <= 1.45, METRES, 0)[1:], abs=1e-4)
    with pytest.raises(ConfigError, match=r"recorded_unit.*1/5000"):
        load(tmp_path, unit=5000)
    with pytest.raises(ConfigError, match="recorded_max_depth_m"):
        load(tmp_path, max_depth_m=0)
