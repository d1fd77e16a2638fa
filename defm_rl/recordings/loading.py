"""Which reader a source is for, and from what it reads to metres."""

import math
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from defm_rl.depth import DepthFormat, ScaleWarning, Unit, inverse_as_metres
from defm_rl.recordings import files, huggingface, lerobot, rosbag
from defm_rl.recordings.base import SHOWN, Frame, Part, Recording, RecordingError, spread

Number = TypeVar("Number", bound=np.generic)

INVERSE = "inverse"
"""The unit of relative inverse depth, larger being closer: that of DeFM's ImageNet benchmark and Depth Anything V2."""


def find_parts(source: str | Path) -> list[Part]:
    """The parts of a recording, in order; nothing is read yet but what says where depth is.

    Args:
        source: One of
            - a PNG, TIFF, NPY or NPZ file, or a folder of them;
            - a LeRobot dataset (v2.1 or v3.0) with depth, as images, arrays or video;
            - a ROS bag: ROS 1 (.bag), ROS 2 (a folder with metadata.yaml, .db3, .mcap), those of RealSense included;
            - a Hugging Face dataset with the column depth: a folder that has it as Parquet files or by `save_to_disk`,
              or hf://OWNER/NAME from the Hub.
            Where there is more than one, `SOURCE#NAME` says which: the array of an NPZ, the feature of a LeRobot
            dataset, the topic of a bag, the split of a dataset.

    Raises:
        RecordingError: Where there is no depth, or a choice of it.
    """
    path, key = _split(source)
    if huggingface.is_hub(str(source)):
        return huggingface.parts(path, key)
    place = Path(path).expanduser()
    if not place.exists():
        raise RecordingError(f"recorded={path}: there is no such folder or file.")
    for reader in (lerobot, rosbag, huggingface):
        if reader.reads(place):
            return reader.parts(str(place), key)
    return files.parts(files.depth_files(place), key)


def _split(source: str | Path) -> tuple[str, str | None]:
    text = str(source)
    if "#" not in text or Path(text).exists():
        return text, None
    path, _, key = text.rpartition("#")
    return path, key


def read_frames(
    source: str | Path, *, unit: Unit | None = None, max_depth_m: float | None = None, limit: int | None = None
) -> Iterator[Frame]:
    """The frames of a recording one after the other, as they were recorded.

    Args:
        source: See `find_parts`.
        unit: See `load_recording`.
        max_depth_m: See `load_recording`.
        limit: No more frames than this, evenly spread over the parts and within them.

    Raises:
        RecordingError: For the first part that cannot be read, or where there is none.
    """
    _check_format(unit, max_depth_m)
    chosen = spread(find_parts(source), limit)
    counts = shares(limit, len(chosen))
    for part, count in zip(chosen, counts, strict=True):
        try:
            number = 0
            for video in _metres(part, count, unit, max_depth_m):
                for depth in video:
                    number += 1
                    yield Frame(depth, f"{part.name} ({number})")
        except files.UNREADABLE as error:
            raise RecordingError(f"{part.name}: {_problem(part, error)}") from error


def load_recording(
    source: str | Path,
    size: tuple[int, int],
    *,
    unit: Unit | None = None,
    max_depth_m: float | None = None,
    limit: int | None = None,
) -> Recording:
    """Reads recorded depth; a part that cannot be read does not keep the others from being read.

    Frames are cropped around their centre to the shape wanted and then sampled without interpolation, which would draw
    depths between an edge and a hole that nothing has.

    Args:
        source: See `find_parts`. A PNG holds one frame of one channel; an NPY, or the array "depth" (or the only one)
            of an NPZ, a frame (H, W) or a video (N, H, W), with or without an axis of one channel, first or last.
        size: Height and width of the frames to give, pixels.
        unit: "m", "mm", the metres of one count, such as 0.0001, or "inverse" for relative inverse depth. Without it,
            what the source says; else integers are millimetres, their type's largest value a hole, and floats metres.
            Needed for 8-bit images.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        limit: Give no more frames than this, evenly spread over the parts and within them.

    Raises:
        RecordingError: Where there is no depth, or none that can be read; or the unit or limit is none.
    """
    _check_format(unit, max_depth_m)
    problems: dict[str, list[tuple[str, str]]] = {}
    videos: list[NDArray[np.float32]] = []
    read: list[Part] = []
    chosen = spread(find_parts(source), limit)
    for part in chosen:
        try:
            # Each part gives its share, rounded up: what is too much is taken out at the end.
            share = None if limit is None else math.ceil(limit / len(chosen))
            videos += [fitted(video, size) for video in _metres(part, share, unit, max_depth_m)]
            read.append(part)
        except files.UNREADABLE as error:
            _note(problems, part.name, _problem(part, error))
    found_wrong = [_described(alike) for alike in problems.values()]
    if not videos:
        raise RecordingError("No recorded depth could be read:\n  " + "\n  ".join(found_wrong))
    looked_at = spread(read, SHOWN)
    each = math.ceil(SHOWN / len(looked_at))
    originals = [x for part in looked_at for video in _metres(part, each, unit, max_depth_m) for x in video]
    return Recording(spread(np.concatenate(videos), limit), len(read), found_wrong, originals[:SHOWN])


def shares(limit: int | None, parts: int) -> list[int | None]:
    """How many frames each part gives, so that all together are `limit`; None for all of them."""
    if limit is None:
        return [None] * parts
    return [limit * (index + 1) // parts - limit * index // parts for index in range(parts)]


def _problem(part: Part, error: Exception) -> str:
    if isinstance(error, RecordingError):
        return str(error)
    why = str(error).replace(part.name, Path(part.name).name)
    return f"cannot be read, it is corrupt or of another kind ({why})."


def _note(problems: dict[str, list[tuple[str, str]]], part: str, problem: str) -> None:
    """Files it where those with the same problem are: the same but for numbers and the part's name."""
    problems.setdefault(re.sub(r"\d+(\.\d+)?", "#", problem.replace(Path(part).name, "")), []).append((part, problem))


def _described(alike: list[tuple[str, str]]) -> str:
    part, problem = alike[0]
    others = len(alike) - 1
    return f"{part}{f' and {others} other' + 's' * (others > 1) + ' like it' if others else ''}: {problem}"


def _check_format(unit: Unit | None, max_depth_m: float | None) -> None:
    try:
        DepthFormat("m" if unit in (None, INVERSE) else unit, max_depth_m)
    except (TypeError, ValueError) as error:
        raise RecordingError(f"recorded_unit or recorded_max_depth_m: {error}.") from error


def _metres(part: Part, limit: int | None, unit: Unit | None, max_depth_m: float | None) -> list[NDArray[np.float32]]:
    """What a part holds, in metres: arrays (N, H, W); frames that see something, where those chosen see nothing."""
    videos = [as_metres(video, unit or part.unit, max_depth_m) for video in part.read(limit)]
    if any(video.any() for video in videos):
        return videos
    if limit is None:
        raise RecordingError("sees nothing: every pixel is a hole.")
    # Cameras that warm up see nothing at first, and a small limit takes the first frames.
    whole = _metres(part, None, unit, max_depth_m)
    return spread([frame[None] for video in whole for frame in video if frame.any()], limit)


def as_metres(video: NDArray[Any], unit: Unit | None, max_depth_m: float | None = None) -> NDArray[np.float32]:
    """Recorded numbers (N, H, W) as float32 metres with holes 0; see `load_recording` for the units.

    Raises:
        RecordingError: Where the numbers do not go with the unit.
    """
    if unit == INVERSE:
        metres = inverse_as_metres(video).float().numpy()
        return metres if max_depth_m is None else np.where(metres <= max_depth_m, metres, np.float32(0))
    if unit is None and video.dtype.kind in "iu" and video.dtype.itemsize == 1:
        raise RecordingError(
            "has 8 bits, which end at 0.255 m where they are millimetres: pass recorded_unit=0.01 if these are "
            "centimetres, or the camera's own 16-bit depth."
        )
    depth_format = DepthFormat(unit or ("m" if video.dtype.kind == "f" else "mm"), max_depth_m)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScaleWarning)
        try:
            metres = depth_format.read(video, check_values=True).numpy()
        except (TypeError, ValueError, ScaleWarning) as error:
            raise RecordingError(f"{error} (recorded_unit=).") from error
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


def fitted(video: NDArray[Number], size: tuple[int, int]) -> NDArray[Number]:
    """(N, H, W) cropped around the centre to the shape of `size`, then sampled at the pixels' centres."""
    height, width = video.shape[1:]
    scale = min(height / size[0], width / size[1])
    rows, columns = (
        ((np.arange(target) + 0.5) * scale + (source - target * scale) / 2).astype(int)
        for source, target in ((height, size[0]), (width, size[1]))
    )
    return video[:, rows[:, None], columns]
