"""The random numbers and operators of simulated cameras on a processor, where `sensors.cpp` can be built (see `build`).

Each gives what the operator of the same name in `defm_rl.sensors` gives, up to the rounding of float32.
"""

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from defm_rl import kernels
from defm_rl.kernels import build

# Pixels of a thread's share that is worth waking it: some tenths of a millisecond.
_LEAST_PIXELS = 2**17
_POINTER, _INT, _WORD, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float
_PAIRS = (_POINTER, _POINTER, _WORD, _WORD)
_SIGNATURES = {
    "uniform": (_POINTER, _POINTER, _WORD, _POINTER, _INT, _INT, _INT),
    "state": (_INT, _POINTER, _POINTER, _POINTER, _POINTER, _INT),
    "normal": (*_PAIRS, _POINTER, _POINTER, _FLOAT, _POINTER, _INT, _INT, _INT),
    "triangulate": (_POINTER, *_PAIRS, _POINTER, _INT, _INT, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _INT),
    "within": (_POINTER, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT, _INT),
    "choose": (_POINTER, _POINTER, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _INT),
    "occluded": (_POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _FLOAT, _FLOAT, _INT),
    "near_edges": (_POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _FLOAT, _FLOAT, _INT),
    "surface_angle": (_POINTER, _POINTER, _INT, _INT, _INT, _FLOAT, _INT),
    "read_shifted": (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _INT),
    "sample_shifted": (_POINTER, _POINTER, _POINTER, _POINTER, _INT, _INT, _INT, _INT),
    "sum_3x3": (_POINTER, _POINTER, _INT, _INT, _INT, _FLOAT, _INT, _INT),
    "running_max": (_POINTER, _POINTER, _INT, _INT, _INT, _INT, _INT),
    "pick": (_POINTER, _POINTER, _POINTER, _INT, _INT, _FLOAT, _INT),
    "sticks": (_POINTER, _POINTER, _INT, _INT, _INT, _INT, _FLOAT, _FLOAT, _FLOAT, _INT),
}


class Pairs(NamedTuple):
    """What the kernels draw pairs of normal numbers from.

    Attributes:
        low: The state of each frame, int32 of B elements.
        high: The same.
        radius_salt: Of the draw of the pairs' radius, 64 bits.
        angle_salt: Of the draw of their angle.
    """

    low: Tensor
    high: Tensor
    radius_salt: int
    angle_salt: int


def available() -> bool:
    """Whether there are kernels: loads them, and builds them first, in two seconds, where they are not on disk yet."""
    return _library() is not None


def serves(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether the kernels take these, and they are of this dtype; the caller sees to it that nothing is traced."""
    return (
        all(
            x.device.type == "cpu"
            and x.dtype == dtype
            and x.numel() > 0
            and not (x.requires_grad and torch.is_grad_enabled())
            for x in tensors
        )
        and not kernels.is_watched()
        and available()
    )


def uniform(low: Tensor, high: Tensor, salt: int, count: int) -> Tensor:
    """Numbers of one draw, (B, count), of frames whose state is `low` and `high`, int32 of B elements."""
    out = torch.empty(len(low), count)
    _call("uniform", low, high, salt, out, len(low), count, _threads(out))
    return out


def state(seed: int, streams: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
    """The state of each frame, two int32 of B elements; the seed is a signed number of 64 bits."""
    low, high = torch.empty((2, len(streams)), dtype=torch.int32)
    _call("state", seed, streams, frames, low, high, len(streams))
    return low, high


def normal(pairs: Pairs, shape: Sequence[int], mean: Tensor | None, sigma: Tensor | float) -> Tensor:
    """Normal numbers, (B, *shape), around a mean of that shape, or 0."""
    out = torch.empty(len(pairs.low), *shape)
    sigmas, number = (sigma, 1.0) if isinstance(sigma, Tensor) else (None, sigma)
    _call("normal", *pairs, mean, sigmas, number, out, len(out), math.prod(shape), _threads(out))
    return out


def triangulate(
    depth: Tensor, pairs: Pairs, constant_m_px: float, sigma_px: float, steps_per_px: float, largest_px: float
) -> Tensor:
    """Depth (B, H, W) by way of noisy and rounded disparity."""
    out = torch.empty(depth.shape)
    settings = constant_m_px, sigma_px, steps_per_px, largest_px
    _call("triangulate", depth, *pairs, out, len(depth), depth[0].numel(), *settings, _threads(depth))
    return out


def within(x: Tensor, least: float, most: float, also: Tensor) -> Tensor:
    """`x` where it is from `least` to `most`, and `also`, of its shape, positive; 0 elsewhere."""
    out = torch.empty(x.shape)
    _call("within", x, also, out, x.numel(), least, most, _threads(x))
    return out


def choose(x: Tensor, least: float, below: float, inside: Tensor | float, outside: Tensor | float) -> Tensor:
    """`inside` where `least` <= x < `below`, else `outside`; tensors of the shape of `x`, or numbers."""
    out = torch.empty(x.shape)
    tensors = [value if isinstance(value, Tensor) else None for value in (inside, outside)]
    numbers = [0.0 if isinstance(value, Tensor) else value for value in (inside, outside)]
    _call("choose", x, *tensors, out, x.numel(), least, below, *numbers, _threads(x))
    return out


def occluded(disparity: Tensor, largest_px: float, dither: Tensor, steepest: float) -> Tensor:
    """Where the right camera of a stereo pair does not see what the left one sees."""
    out = torch.empty(disparity.shape, dtype=torch.bool)
    _call("occluded", disparity, dither, out, *disparity.shape, largest_px, steepest, _threads(disparity))
    return out


def near_edges(disparity: Tensor, jump_px: float, width_px: float, chance: Tensor) -> Tensor:
    """Pixels near a jump in disparity."""
    out = torch.empty(disparity.shape, dtype=torch.bool)
    _call("near_edges", disparity, chance, out, *disparity.shape, jump_px, width_px, _threads(disparity))
    return out


def surface_angle(depth: Tensor, focal_px: float) -> Tensor:
    """Angles between the viewing rays and the surfaces' normals."""
    out = torch.empty(depth.shape)
    _call("surface_angle", depth, out, *depth.shape, focal_px, _threads(depth))
    return out


def read_shifted(y_px: Tensor, x_px: Tensor, image: Tensor, other: Tensor | None = None) -> list[Tensor]:
    """Each pixel reads so far away, rounded, of one image or of two."""
    given = [image] if other is None else [image, other]
    out = [torch.empty(image.shape) for image in given]
    other_out = None if other is None else out[1]
    _call("read_shifted", image, other, y_px, x_px, out[0], other_out, *image.shape, _threads(image))
    return out


def sample_shifted(depth: Tensor, y_px: Tensor, x_px: Tensor) -> Tensor:
    """Each pixel reads so far away, bilinearly."""
    out = torch.empty(depth.shape)
    _call("sample_shifted", depth, y_px, x_px, out, *depth.shape, _threads(depth))
    return out


def sum_3x3(x: Tensor, diagonal: float, *, repeats: bool) -> Tensor:
    """Sums over 3x3 pixels, those on the diagonals with that weight; beyond the border it repeats, or is 0."""
    out = torch.empty(x.shape)
    _call("sum_3x3", x, out, *x.shape, diagonal, repeats, _threads(x))
    return out


def running_max(x: Tensor, count: int, dim: int) -> Tensor:
    """The maximum of each value and the `count` - 1 before it along an axis."""
    out = torch.empty(x.shape)
    outer, inner = x.shape[:dim].numel(), x.shape[dim + 1 :].numel()
    _call("running_max", x, out, outer, x.shape[dim], inner, count, _threads(x))
    return out


def pick(x: Tensor, values: Sequence[float], factor: float) -> Tensor:
    """Of the values that at floor(x * factor), modulo their number; 0 where x is not positive."""
    out = torch.empty(x.shape)
    _call("pick", x, torch.tensor(values), out, x.numel(), len(values), factor, _threads(x))
    return out


def sticks(random: Tensor, height: int, width: int, active: float, length_px: float, width_px: float) -> Tensor:
    """Bars; those slots of (B, slots, 7) random numbers are drawn whose first number is below `active`."""
    out = torch.zeros(len(random), height, width)
    _call("sticks", random, out, *random.shape[:2], height, width, active, length_px, width_px, _threads(random))
    return out


def _threads(x: Tensor) -> int:
    """All or one: OpenMP would end those of its threads that a smaller number leaves out."""
    return torch.get_num_threads() if x.numel() >= 2 * _LEAST_PIXELS else 1


def _call(name: str, *arguments: Tensor | float | None) -> None:
    # The tensors are held here while their memory is read.
    given = [x.contiguous() if isinstance(x, Tensor) else x for x in arguments]
    _functions()[name](*(x.data_ptr() if isinstance(x, Tensor) else x for x in given))


@cache
def _functions() -> dict[str, Callable[..., None]]:
    library = _library()
    assert library is not None
    functions = {name: getattr(library, name) for name in _SIGNATURES}
    for name, function in functions.items():
        function.argtypes, function.restype = _SIGNATURES[name], None
    return functions


@cache
def _library() -> ctypes.CDLL | None:
    return build.load("sensors.cpp", (), ctypes.CDLL)
