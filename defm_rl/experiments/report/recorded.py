"""Recorded depth, as robots leave it: folders of PNG, NPY and NPZ files, read into metres."""

import math
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from defm_rl.depth import DepthFormat, ScaleWarning, Unit, as_images
from defm_rl.experiments.config import ConfigError

SHOWN = 4  # recorded frames in a report
SUFFIXES = (".png", ".npy", ".npz")


@dataclass(frozen=True)
class Recording:
    """Depth frames from real cameras.

    Attributes:
        frames: (N, H, W) float32 metres, holes 0.
        files: How many files they come from.
        problems: What was wrong with the files that were left out; each names its file, or the first of those alike.
        originals: Up to `SHOWN` of the frames as they were recorded, each (H', W') float32 metres, to be looked at.
    """

    frames: NDArray[np.float32]
    files: int
    problems: list[str]
    originals: list[NDArray[np.float32]] = field(default_factory=list)


def load_recorded(
    path: Path,
    size: tuple[int, int],
    *,
    unit: Unit | None = None,
    max_depth_m: float | None = None,
    limit: int | None = None,
) -> Recording:
    """Reads recorded depth; a file that cannot be read does not keep the others from being read.

    A PNG holds one frame of one channel. An NPY, or the array "depth" (or the only one) of an NPZ, holds a frame
    (H, W) or a video (N, H, W), with or without an axis of one channel, first or last. Integers are millimetres, their
    type's largest value a hole, and floats metres, unless `unit` says otherwise. Frames are cropped around their centre
    to the shape wanted and then sampled without interpolation, which would draw depths between an edge and a hole that
    nothing has.

    Args:
        path: A folder (its files in order of their names), or one file.
        size: Height and width of the frames to give, pixels.
        unit: "m", "mm", or the metres of one count, such as 0.0001. Needed for 8-bit images.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        limit: Give no more frames than this, evenly spread over the files and within them.

    Raises:
        ConfigError: Where there is no such path, no file of depth, or none that can be read; or the unit or limit is
            none.
    """
    _check_format(unit, max_depth_m)
    found = depth_files(path)
    problems: dict[str, list[tuple[Path, str]]] = {}
    parts: list[NDArray[np.float32]] = []
    read: list[Path] = []
    chosen = _spread(found, limit)
    for file in chosen:
        try:
            # Each file gives its share, rounded up: what is too much is taken out at the end.
            video = _spread(_read(file), None if limit is None else math.ceil(limit / len(chosen)))
            parts.append(_fitted(_metres(video, unit, max_depth_m), size))
            read.append(file)
        except ConfigError as error:
            _note(problems, file, str(error))
        except (OSError, SyntaxError, ValueError, EOFError, zipfile.BadZipFile) as error:  # what Pillow and NumPy raise
            why = str(error).replace(str(file), file.name)
            _note(problems, file, f"cannot be read, it is corrupt or of another kind ({why}).")
    found_wrong = [_described(alike) for alike in problems.values()]
    if not parts:
        raise ConfigError("No recorded depth could be read:\n  " + "\n  ".join(found_wrong))
    looked_at = _spread(read, SHOWN)
    share = math.ceil(SHOWN / len(looked_at))
    originals = [x for file in looked_at for x in _metres(_spread(_read(file), share), unit, max_depth_m)]
    return Recording(_spread(np.concatenate(parts), limit), len(parts), found_wrong, originals[:SHOWN])


def _note(problems: dict[str, list[tuple[Path, str]]], file: Path, problem: str) -> None:
    """Files it where those with the same problem are: the same but for numbers and the file's name."""
    problems.setdefault(re.sub(r"\d+(\.\d+)?", "#", problem.replace(file.name, "")), []).append((file, problem))


def _described(alike: list[tuple[Path, str]]) -> str:
    file, problem = alike[0]
    others = len(alike) - 1
    return f"{file}{f' and {others} other' + 's' * (others > 1) + ' like it' if others else ''}: {problem}"


def depth_files(path: Path) -> list[Path]:
    """The files of depth at a path, by name.

    Raises:
        ConfigError: Where there are none.
    """
    if not path.exists():
        raise ConfigError(f"recorded={path}: there is no such folder or file.")
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not found:
        names = ", ".join(file.name for file in files[:5])
        holds = f"holds only {names}{', ...' if len(files) > 5 else ''}" if names else "is empty"
        raise ConfigError(f"recorded={path} {holds}: expected depth in {', '.join(SUFFIXES)} files.")
    return found


def _check_format(unit: Unit | None, max_depth_m: float | None) -> None:
    try:
        DepthFormat("m" if unit is None else unit, max_depth_m)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"recorded_unit or recorded_max_depth_m: {error}.") from error


def _spread(items: Any, limit: int | None) -> Any:
    """At most `limit` of the items, evenly spread."""
    if limit is None or len(items) <= limit:
        return items
    chosen = np.linspace(0, len(items) - 1, limit).round().astype(int)
    return [items[index] for index in chosen] if isinstance(items, list) else items[chosen]


def _read(file: Path) -> NDArray[Any]:
    """The file's numbers as (N, H, W)."""
    suffix = file.suffix.lower()
    if suffix == ".png":
        with Image.open(file) as image:
            array = np.asarray(image)
    elif suffix == ".npy":
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    else:
        with np.load(file, allow_pickle=False) as archive:
            names = archive.files
            name = "depth" if "depth" in names or len(names) != 1 else names[0]
            if name not in names:
                raise ConfigError(f"expected an array called 'depth', got {', '.join(names) or 'none'}.")
            array = archive[name]
    if suffix == ".png" and array.ndim == 3 and array.shape[2] == 3 and (array == array[..., :1]).all():
        array = array[..., 0]  # a grey picture saved in colour
    if suffix == ".png" and array.ndim != 2:
        raise ConfigError(f"expected depth of one channel, got a picture of shape {array.shape}.")
    try:
        return as_images(array)
    except ValueError as error:
        raise ConfigError(f"{error}.") from error


def _metres(video: NDArray[Any], unit: Unit | None, max_depth_m: float | None) -> NDArray[np.float32]:
    if unit is None and video.dtype.kind in "iu" and video.dtype.itemsize == 1:
        raise ConfigError(
            "has 8 bits, which end at 0.255 m where they are millimetres: pass recorded_unit=0.01 if these are "
            "centimetres, or the camera's own 16-bit depth."
        )
    depth_format = DepthFormat(unit or ("m" if video.dtype.kind == "f" else "mm"), max_depth_m)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ScaleWarning)
        try:
            metres = depth_format.read(video, check_values=True).numpy()
        except (TypeError, ValueError, ScaleWarning) as error:
            raise ConfigError(f"{error} (recorded_unit=).") from error
    metres = np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))
    if not metres.any():
        raise ConfigError("sees nothing: every pixel is a hole.")
    return metres


def _fitted(video: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Cropped around the centre to the shape of `size`, then sampled at the pixels' centres."""
    height, width = video.shape[1:]
    scale = min(height / size[0], width / size[1])
    rows, columns = (
        ((np.arange(target) + 0.5) * scale + (source - target * scale) / 2).astype(int)
        for source, target in ((height, size[0]), (width, size[1]))
    )
    return video[:, rows[:, None], columns]
