"""Depth in PNG, TIFF, NPY and NPZ files; what a robot's policy wrote of its last seconds is such an NPZ, too."""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defm_rl.depth import as_images
from defm_rl.recordings.base import Part, RecordingError, below, needed, spread

PICTURES = (".png", ".tif", ".tiff")
SUFFIXES = (*PICTURES, ".npy", ".npz")
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, zipfile.BadZipFile)
"""What Pillow and NumPy raise for damaged files."""


def depth_files(path: Path) -> list[Path]:
    """The files of depth at a path, by name.

    Raises:
        RecordingError: Where there are none.
    """
    if not path.exists():
        raise RecordingError(f"recorded={path}: there is no such folder or file.")
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    depth = [file for file in found if file.suffix.lower() in SUFFIXES]
    if not depth:
        names = ", ".join(file.name for file in found[:5])
        holds = f"holds only {names}{', ...' if len(found) > 5 else ''}" if names else "is empty"
        deeper = below(path, *(f"*/*{suffix}" for suffix in SUFFIXES)) if path.is_dir() else []
        hint = f" One folder deeper there is: name {deeper[0].parent}." if deeper else ""
        raise RecordingError(
            f"recorded={path} {holds}: expected depth in {', '.join(SUFFIXES)} files, a LeRobot or Hugging Face "
            f"dataset, or a ROS bag.{hint}"
        )
    return depth


def parts(files: Sequence[Path], key: str | None) -> list[Part]:
    """A part for each file; `key` names the array of an NPZ."""
    return [Part(str(file), lambda limit, file=file: [spread(read(file, key), limit)]) for file in files]  # type: ignore


def read(file: Path, key: str | None = None) -> NDArray[Any]:
    """The file's numbers as (N, H, W)."""
    suffix = file.suffix.lower()
    if suffix in PICTURES:
        return picture(file)[None]
    if suffix == ".npy":
        array = np.load(file, mmap_mode="r", allow_pickle=False)
    else:
        with np.load(file, allow_pickle=False) as archive:
            names = archive.files
            name = key or ("depth" if "depth" in names or len(names) != 1 else names[0])
            if name not in names:
                raise RecordingError(f"expected an array called {name!r}, got {', '.join(names) or 'none'}.")
            array = archive[name]
    return stack(array)


def stack(array: NDArray[Any]) -> NDArray[Any]:
    """Any shape of depth as (N, H, W)."""
    try:
        return as_images(array)
    except ValueError as error:
        raise RecordingError(f"{error}.") from error


def picture(encoded: Path | bytes) -> NDArray[Any]:
    """The numbers of a PNG or TIFF of one channel, (H, W)."""
    file = io.BytesIO(encoded) if isinstance(encoded, bytes) else encoded
    with needed("PIL.Image", "reading pictures").open(file) as image:
        return one_channel(np.asarray(image))


def one_channel(array: NDArray[Any]) -> NDArray[Any]:
    """A picture (H, W) of an image that may be a grey one saved in colour."""
    if array.ndim == 3 and array.shape[2] == 3 and (array == array[..., :1]).all():
        return array[..., 0]
    if array.ndim == 3 and array.shape[2] == 1:
        return array[..., 0]
    if array.ndim != 2:
        raise RecordingError(f"expected depth of one channel, got a picture of shape {array.shape}.")
    return array
