"""Simulated cameras and their random numbers on a processor, where `sensors.cpp` can be built (see `build`).

Each gives what its caller in `defm_rl.sensors` does in PyTorch's operations, up to the rounding of float32.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from defm_rl import kernels
from defm_rl.kernels import build

# Pixels of a thread's share that is worth waking it: some tenths of a millisecond.
_LEAST_PIXELS = 2**17
_POINTER, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_float


class _Frames(ctypes.Structure):
    """As in `sensors.cpp`."""

    _fields_ = (
        *((name, _POINTER) for name in ("depth", "out", "low", "high")),
        *((name, _INT) for name in ("draws", "batch", "height", "width", "threads")),
    )


_FRAMES = ctypes.POINTER(_Frames)
_SIGNATURES = {
    "state": (_INT, _POINTER, _POINTER, _INT, _POINTER, _POINTER, _INT),
    "within": (_POINTER, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT, _INT),
    "choose": (_POINTER, _POINTER, _POINTER, _POINTER, _INT, _FLOAT, _FLOAT, _FLOAT, _FLOAT, _INT),
    "uniform": (_FRAMES,),
    "normal": (_FRAMES,),
    "smooth_field": (_FRAMES, _POINTER, _POINTER, _INT, _INT, _FLOAT),
    "redwood": (_FRAMES, *[_FLOAT] * 5),
    "kinect_nguyen": (_FRAMES, *[_FLOAT] * 4),
    "stereo": (_FRAMES, *[_FLOAT] * 5, _POINTER, *[_FLOAT] * 4, _INT, _FLOAT, _FLOAT),
    "zedx": (_FRAMES, *[_FLOAT] * 6),
    "realsense_parkour": (_FRAMES, *[_FLOAT] * 8, _INT, _INT, _POINTER, _INT, _FLOAT),
    "dextrah": (_FRAMES, *[_FLOAT] * 8, _INT, _FLOAT, _FLOAT, _FLOAT),
}


class Numbers(NamedTuple):
    """What the kernels draw random numbers from.

    Attributes:
        low: The state of each frame, int32 of B elements.
        high: The same.
        draws: How many draws there were.
    """

    low: Tensor
    high: Tensor
    draws: int


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


def state(seed: int, streams: Tensor, frames: Tensor, held: int) -> tuple[Tensor, Tensor]:
    """The state of each frame, two int32 of B elements, the same for `held` frames; the seed is signed, of 64 bits."""
    low, high = torch.empty((2, len(streams)), dtype=torch.int32)
    _call("state", seed, streams, frames, held, low, high, len(streams))
    return low, high


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


def uniform(numbers: Numbers, count: int) -> Tensor:
    """Uniform numbers, (B, count)."""
    return _drawn("uniform", numbers, 1, count)[:, 0]


def normal(numbers: Numbers, count: int) -> Tensor:
    """Normal numbers, (B, count)."""
    return _drawn("normal", numbers, 1, count)[:, 0]


def smooth_field(numbers: Numbers, down: Tensor, across: Tensor, spread_px: float) -> Tensor:
    """Normal numbers on a grid, smoothed by (nodes, H) and (nodes, W) weights: (B, H, W)."""
    grid = down, across, len(down), len(across)
    return _drawn("smooth_field", numbers, down.shape[1], across.shape[1], *grid, spread_px)


def measure(camera: str, depth: Tensor, numbers: Numbers, *settings: Tensor | float | None) -> Tensor:
    """What a camera of `sensors.cpp` measures of (B, H, W) depth, by its settings there."""
    out = torch.empty(depth.shape)
    depth = depth.contiguous()  # held here while its memory is read
    _call(camera, _frames(depth, out, numbers), *settings)
    return out


def _drawn(name: str, numbers: Numbers, height: int, width: int, *settings: Tensor | float) -> Tensor:
    out = torch.empty(len(numbers.low), height, width)
    _call(name, _frames(None, out, numbers), *settings)
    return out


def _frames(depth: Tensor | None, out: Tensor, numbers: Numbers) -> _Frames:
    address = None if depth is None else depth.data_ptr()
    state = numbers.low.data_ptr(), numbers.high.data_ptr(), numbers.draws
    return _Frames(address, out.data_ptr(), *state, *out.shape, _threads(out))


def _threads(x: Tensor) -> int:
    """All or one: OpenMP would end those of its threads that a smaller number leaves out."""
    return torch.get_num_threads() if x.numel() >= 2 * _LEAST_PIXELS else 1


def _call(name: str, *arguments: Tensor | _Frames | float | None) -> None:
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
