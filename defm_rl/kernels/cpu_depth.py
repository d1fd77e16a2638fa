"""The normalization of `depth.cpp` for depth on a processor, where it can be built (see `build`)."""

import ctypes
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.kernels import build

# Pixels, read and written, of a thread's share that is worth waking it: some tenths of a millisecond.
_LEAST_PIXELS = 2**20
_FLOATS = ctypes.POINTER(ctypes.c_float)


class _Axis(ctypes.Structure):
    """As in `depth.cpp`."""

    _fields_ = (
        ("starts", ctypes.POINTER(ctypes.c_int64)),
        ("weights", _FLOATS),
        ("taps", ctypes.c_int64),
    )


class _Normalization(ctypes.Structure):
    """As in `depth.cpp`."""

    _fields_ = (
        ("depth", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("scratch", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("images", "height", "width", "out_height", "out_width")),
        *((name, ctypes.c_int64) for name in ("padded_height", "padded_width", "threads", "scratch_size")),
        ("rows", _Axis),
        ("columns", _Axis),
        ("scale", ctypes.c_float * 3),
        ("shift", ctypes.c_float * 3),
        ("near", ctypes.c_float),
        ("max_depth_m", ctypes.c_float),
    )


def available() -> bool:
    """Whether `normalize` can be used: loads it, and builds it first, in a second, where it is not on disk yet."""
    return _library() is not None


def normalize(
    depth: Tensor,
    size: tuple[int, int],
    padded: tuple[int, int],
    scale: Sequence[float],
    shift: Sequence[float],
    near: float,
    max_depth_m: float,
) -> Tensor:
    """As `defm_rl.kernels.normalize_depth` of (B, H, W) float32 depth, and resized, where `available()`.

    Args:
        depth: See there; not empty.
        size: Height and width to resize to: bilinear with antialiasing, as PyTorch does it.
        padded: See there.
        scale: See there.
        shift: See there.
        near: See there.
        max_depth_m: See there.

    Returns:
        (B, 3, *padded), float32.
    """
    library = _library()
    assert library is not None
    depth = depth.detach().contiguous()
    images, height, width = depth.shape
    out = torch.empty((images, 3, *padded), dtype=torch.float32, device=depth.device)
    # All or one: OpenMP would end those of its threads that a smaller number leaves out.
    threads = torch.get_num_threads() if depth.numel() + out.numel() >= 2 * _LEAST_PIXELS else 1
    rows: tuple[Any, ...] = (_Axis(),)
    columns, scratch, scratch_size = rows, None, 0
    if size != (height, width):
        rows, columns = _axis(height, size[0]), _axis(width, size[1])
        scratch_size = (2 * height + 1) * width + 2 * size[1]
        scratch = torch.empty((threads, scratch_size), dtype=torch.float32, device=depth.device)
    work = _Normalization(
        depth=depth.data_ptr(),
        out=out.data_ptr(),
        scratch=None if scratch is None else scratch.data_ptr(),
        images=images,
        height=height,
        width=width,
        out_height=size[0],
        out_width=size[1],
        padded_height=padded[0],
        padded_width=padded[1],
        threads=threads,
        scratch_size=scratch_size,
        rows=rows[0],  # the arrays that these point into are held until the end
        columns=columns[0],
        scale=tuple(scale),
        shift=tuple(shift),
        near=near,
        max_depth_m=max_depth_m,
    )
    library.normalize_depth(ctypes.byref(work))
    return out


@cache
def _library() -> ctypes.CDLL | None:
    return build.load("depth.cpp", (), ctypes.CDLL)


@lru_cache(maxsize=64)
def _axis(size: int, resized: int) -> tuple[_Axis, NDArray[np.int64], NDArray[np.float32]]:
    """What the pixels of a resized axis are made of, for C++, and the arrays that this points into."""
    starts, weights = taps(size, resized)
    axis = _Axis(
        starts.ctypes.data_as(ctypes.POINTER(ctypes.c_int64)), weights.ctypes.data_as(_FLOATS), weights.shape[1]
    )
    return axis, starts, weights


def taps(size: int, resized: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The bilinear filter with antialiasing, as a triangle around each new pixel's centre, of an axis.

    It is as wide as two pixels of the coarser of the two grids, and its weights add up to 1. In float32, in which
    PyTorch computes them: how these round matters more than all else that is different here.

    Args:
        size: Number of pixels.
        resized: Number of pixels after the resize.

    Returns:
        For each new pixel the first of those that it is made of, (resized,), and their weights, (resized, taps).
    """
    half = np.float32(0.5)
    scale = np.float32(size) / np.float32(resized)
    reach = max(scale, np.float32(1.0))
    centres = (np.arange(resized, dtype=np.float32) + half) * scale
    first = np.maximum((centres - reach + half).astype(np.int64), 0)
    last = np.minimum((centres + reach + half).astype(np.int64), size)
    count = int((last - first).max())
    starts = np.minimum(first, size - count)
    pixels = starts[:, None] + np.arange(count)
    # Half a pixel is added, and the filter's width taken into account, in float64.
    distances = (pixels.astype(np.float32) - centres[:, None]).astype(np.float64) + 0.5
    distances = np.abs(distances * np.float64(np.float32(1.0) / reach)).astype(np.float32)
    weights = np.maximum(np.float32(1.0) - distances, np.float32(0.0))
    weights[(pixels < first[:, None]) | (pixels >= last[:, None])] = 0.0
    weights /= np.cumsum(weights, 1, dtype=np.float32)[:, -1:]  # added up in order
    return starts, weights


def resizing_matrix(size: int, resized: int) -> NDArray[np.float32]:
    """`taps` as the (resized, size) matrix that resizes an axis."""
    starts, weights = taps(size, resized)
    matrix = np.zeros((resized, size), np.float32)
    matrix[np.arange(resized)[:, None], starts[:, None] + np.arange(weights.shape[1])] = weights
    return matrix
