"""Depth in ROS bags, 1 and 2, those of RealSense's recorders included; read by `rosbags`, without ROS.

`sensor_msgs/Image` holds millimetres as 16UC1 and metres as 32FC1 (ROS enhancement proposal 118); RealSense's cameras
say what their counts are in the option Depth_Units.
"""

import contextlib
import functools
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from defm_rl.depth import Unit
from defm_rl.recordings import files
from defm_rl.recordings.base import Part, RecordingError, needed, spread_indices

_IMAGE, _COMPRESSED = "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage"
_TYPES = {"16UC1": np.uint16, "mono16": np.uint16, "32FC1": np.float32}
_DEPTH_UNITS = "/option/Depth_Units/value"
_HEADER = struct.Struct("<i2f")  # of compressed_depth_image_transport: format, and A and B of inverse depth


class _Bag(NamedTuple):
    """An open bag: its connections, messages of some of them in order of time, and what makes objects of bytes."""

    connections: list[Any]
    messages: Callable[[list[Any]], Iterator[tuple[Any, int, bytes]]]
    deserialize: Callable[[bytes, str], Any]


def reads(path: Path) -> bool:
    """Whether this is one."""
    return path.suffix in (".bag", ".db3", ".mcap") or (path / "metadata.yaml").is_file()


def parts(source: str, key: str | None) -> list[Part]:
    """The one topic of depth."""
    path = Path(source)
    with _opened(path) as bag:
        images = [x for x in bag.connections if x.msgtype in (_IMAGE, _COMPRESSED) and x.msgcount]
        if key is not None:
            images = [x for x in images if x.topic == key]
        encodings = {x.topic: _encoding(_first(bag, x)) for x in images}
        depth = [topic for topic, encoding in encodings.items() if encoding]
        if len(depth) != 1:
            others = sorted({x.topic for x in bag.connections})
            which = f"{', '.join(depth)}: name one by {source}#{depth[0]}" if depth else f"none of {', '.join(others)}"
            raise RecordingError(f"recorded={source} is a ROS bag; of its topics depth is {which}.")
        return [Part(f"{path}#{depth[0]}", lambda limit: _read(path, depth[0], limit), _unit(bag, depth[0]))]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Bag]:
    try:
        if path.suffix == ".bag":
            # Not by rosbags' reader for any bag: that parses all definitions of messages, and RealSense's are odd.
            rosbag1 = needed("rosbags.rosbag1", "reading ROS bags")
            with rosbag1.Reader(path) as reader:
                yield _Bag(reader.connections, reader.messages, _types("ROS1_NOETIC").deserialize_ros1)
        else:
            highlevel = needed("rosbags.highlevel", "reading ROS bags")
            with highlevel.AnyReader([path], default_typestore=_types("LATEST")) as reader:
                yield _Bag(reader.connections, reader.messages, reader.deserialize)
    except RecordingError:
        raise
    except Exception as error:  # of rosbags, SQLite, or a decompressor: each has its own
        raise RecordingError(f"{path} cannot be read as a ROS bag ({type(error).__name__}: {error}).") from error


@functools.cache
def _types(version: str) -> Any:
    """ROS's own definitions of messages."""
    typesys = needed("rosbags.typesys", "reading ROS bags")
    return typesys.get_typestore(typesys.Stores[version])


def _first(bag: _Bag, connection: Any) -> Any:
    for _, _, raw in bag.messages([connection]):
        return bag.deserialize(raw, connection.msgtype)
    return None


def _encoding(message: Any) -> str:
    """What a message's image is encoded as, where that is depth."""
    said = str(getattr(message, "encoding", None) or getattr(message, "format", ""))
    name, _, compression = said.partition(";")
    compressed = not hasattr(message, "encoding")
    return name.strip() if name.strip() in _TYPES and (not compressed or "jpeg" not in compression) else ""


def _unit(bag: _Bag, topic: str) -> Unit | None:
    """What RealSense says that a count of this topic is; None where the encoding has to tell."""
    sensor = topic.partition("/sensor_")
    stem = f"{sensor[0]}{sensor[1]}{sensor[2].partition('/')[0]}" if sensor[1] else None
    for connection in bag.connections:
        if stem is not None and connection.topic == f"{stem}{_DEPTH_UNITS}":
            return float(_first(bag, connection).data)
    return None


def _read(path: Path, topic: str, limit: int | None) -> list[NDArray[Any]]:
    with _opened(path) as bag:
        chosen = [x for x in bag.connections if x.topic == topic]
        wanted = set(spread_indices(sum(x.msgcount for x in chosen), limit))
        images = [
            _image(bag.deserialize(raw, connection.msgtype))
            for index, (connection, _, raw) in enumerate(bag.messages(chosen))
            if index in wanted
        ]
    return [np.stack(images)]


def _image(message: Any) -> NDArray[Any]:
    data = np.asarray(message.data)
    if not hasattr(message, "encoding"):
        return _compressed(message.format, data.tobytes())
    dtype = np.dtype(_TYPES[message.encoding]).newbyteorder(">" if message.is_bigendian else "<")
    rows = np.frombuffer(data.tobytes(), np.uint8).reshape(message.height, message.step)  # which may be padded
    return rows[:, : message.width * dtype.itemsize].copy().view(dtype).astype(dtype.newbyteorder("="))


def _compressed(encoding: str, data: bytes) -> NDArray[Any]:
    """A PNG, or what compressed_depth_image_transport makes: a header, and a PNG of depth or of its inverse."""
    if "rvl" in encoding:
        raise RecordingError(
            f"is compressed as {encoding!r}: only PNG is read. Record the topic without /compressedDepth, or have the "
            "driver set its parameter format to png."
        )
    if "compressedDepth" not in encoding:
        return files.picture(data)
    _, a, b = _HEADER.unpack_from(data)
    counts = files.picture(data[_HEADER.size :])
    if not encoding.startswith("32FC1"):
        return counts
    with np.errstate(divide="ignore"):
        return np.where(counts > 0, a / (counts.astype(np.float32) - b), 0).astype(np.float32)
