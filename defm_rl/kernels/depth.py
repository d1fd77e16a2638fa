"""The normalization of depth as Triton kernels: depth is read twice and the channels are written once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from defm_rl.kernels.sharing import shares

_BLOCK = 1024


def normalize(
    depth: Tensor,
    padded: tuple[int, int],
    dtype: torch.dtype,
    scale: tuple[float, float, float],
    shift: tuple[float, float, float],
    near: float,
    max_depth_m: float,
) -> Tensor:
    """As `defm_rl.kernels.normalize_depth`."""
    depth = depth.contiguous()
    images, height, width = depth.shape
    out = torch.empty((images, 3, *padded), dtype=dtype, device=depth.device)
    parts = shares(images, triton.cdiv(height * width, _BLOCK))
    ranges = torch.empty((images, 2, parts), dtype=torch.float32, device=depth.device)
    with torch.cuda.device_of(depth):
        if parts > 1:
            _range_kernel[(images, parts)](depth, ranges, height * width, max_depth_m, parts, _BLOCK)
        _normalize_kernel[(images, parts)](
            depth, ranges, out, height, width, *padded, max_depth_m, near, *scale, *shift, parts, _BLOCK
        )
    return out


@triton.jit
def _clean(depth, max_depth_m):
    """NaN, infinities and negative depth are holes."""
    return tl.minimum(tl.where((depth > 0.0) & (depth < float("inf")), depth, 0.0), max_depth_m)


@triton.jit
def _log1p(x):
    """To a few units in the last place: the rounding of 1 + x is undone (Goldberg 1991, theorem 4)."""
    y = 1.0 + x
    is_rounded_away = y == 1.0
    return tl.where(is_rounded_away, x, tl.log(y) * (x / tl.where(is_rounded_away, 1.0, y - 1.0)))


@triton.jit
def _range(depth, start, stop, max_depth_m, block: tl.constexpr):
    """Smallest and largest depth among the pixels from start to stop."""
    low = tl.full((block,), float("inf"), tl.float32)
    high = tl.full((block,), 0.0, tl.float32)
    for first in range(start, stop, block):
        pixels = first + tl.arange(0, block)
        inside = pixels < stop
        values = _clean(tl.load(depth + pixels, mask=inside, other=0.0), max_depth_m)
        low = tl.minimum(low, tl.where(inside, values, float("inf")))
        high = tl.maximum(high, values)
    return tl.min(low, 0), tl.max(high, 0)


@triton.jit
def _range_kernel(depth, ranges, pixels, max_depth_m, parts: tl.constexpr, block: tl.constexpr):
    image, part = tl.program_id(0), tl.program_id(1)
    share = tl.cdiv(pixels, parts)
    depth += image.to(tl.int64) * pixels
    low, high = _range(depth, part * share, tl.minimum((part + 1) * share, pixels), max_depth_m, block)
    ranges += image * 2 * parts + part
    tl.store(ranges, low)
    tl.store(ranges + parts, high)


@triton.jit
def _normalize_kernel(
    depth,
    ranges,
    out,
    height,
    width,
    padded_height,
    padded_width,
    max_depth_m,
    near,
    scale0,
    scale1,
    scale2,
    shift0,
    shift1,
    shift2,
    parts: tl.constexpr,
    block: tl.constexpr,
):
    """Writes a share of an image; without shares, it looks for the range itself."""
    image, part = tl.program_id(0), tl.program_id(1)
    pixels, padded = height * width, padded_height * padded_width
    depth += image.to(tl.int64) * pixels
    out += image.to(tl.int64) * 3 * padded
    if parts == 1:
        low, high = _range(depth, 0, pixels, max_depth_m, block)
    else:
        ranges += image * 2 * parts + tl.arange(0, parts)
        low, high = tl.min(tl.load(ranges), 0), tl.max(tl.load(ranges + parts), 0)
    low, high = _log1p(low), _log1p(high)
    span = tl.where(high > low, high - low, 1.0)
    share = tl.cdiv(padded, parts)
    stop = tl.minimum((part + 1) * share, padded)
    for first in range(part * share, stop, block):
        places = first + tl.arange(0, block)
        exists = places < stop
        row, column = places // padded_width, places % padded_width
        inside = exists & (row < height) & (column < width)
        log = _log1p(_clean(tl.load(depth + row * width + column, mask=inside, other=0.0), max_depth_m))
        # Written one after the other, in the type of the result.
        tl.store(out + places, tl.where(inside, log * scale0 + shift0, 0.0), mask=exists)
        tl.store(out + padded + places, tl.where(inside, tl.minimum(log, near) * scale1 + shift1, 0.0), mask=exists)
        tl.store(out + 2 * padded + places, tl.where(inside, (log - low) / span * scale2 + shift2, 0.0), mask=exists)
