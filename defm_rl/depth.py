"""What a depth image is here, and its normalization into the three channels that the encoders expect.

With d in metres and L = log1p(d), the channels are L / log1p(100), min(L / log1p(9), 1) and L scaled to [0, 1] within
each image; each is then standardised (the preprocessing published with DeFM 1.1.0). The paper (arXiv 2601.18923) writes
log1p(10) for the second; the released models were trained with log(10) = log1p(9).
"""

import math
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from defm_rl import kernels
from defm_rl.kernels import cpu_depth

MAX_DEPTH_M = 100.0
"""Depth beyond this is clipped to it."""

INPUT_CHANNELS = {
    "defm": "DeFM's three channels, standardised",
    "log": "log1p(d) / log1p(100), from 0 to 1, three times",
    "metres": "metres from 0 to 100, three times",
}
"""What networks take, by name: holes are 0 before any standardisation, and depth beyond 100 m counts as 100 m."""

MEAN = (0.248880, 0.495620, 0.492858)
STD = (0.139357, 0.271314, 0.297177)

_FAR = math.log1p(MAX_DEPTH_M)
_NEAR = math.log1p(9.0)
# A channel is x * scale + shift, x being L, min(L, _NEAR) and (L - min L) / (max L - min L).
_SCALE = (1 / (_FAR * STD[0]), 1 / (_NEAR * STD[1]), 1 / STD[2])
_SHIFT = (-MEAN[0] / STD[0], -MEAN[1] / STD[1], -MEAN[2] / STD[2])
# What is resized at once on its way from depth to channels, at the least one image per thread: some megabytes.
_PIXELS_AT_ONCE = 2**20
_METRES_PER_UNIT = {"m": 1.0, "mm": 1e-3}

DepthImages = Tensor | NDArray[np.generic]
Size = int | tuple[int, int]
Unit = str | float
"""Of depth: "m", "mm", or the metres of one count, such as 0.0001."""

# The largest count of each integer type that is no hole, as far as float32 tells it from the type's largest.
_LAST_VALID = {
    dtype: float(np.nextafter(np.float32(torch.iinfo(dtype).max), np.float32(0)))
    for dtype in (
        *(torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.uint8, torch.uint16, torch.uint32, torch.uint64),
    )
}

_Images = TypeVar("_Images", Tensor, NDArray[np.generic])


class ScaleWarning(UserWarning):
    """The depth does not look like metres."""


@dataclass(frozen=True)
class DepthFormat:
    """How numbers stand for depth, and which of them stand for none.

    Attributes:
        unit: "m", "mm", or the metres of one count as a number: 0.0001 for a RealSense D405, 0.00025 for an L515,
            1/5000 for the TUM RGB-D data set.
        max_depth_m: Beyond it a pixel is a hole, in metres; None for no limit.

    Raises:
        TypeError: An attribute is of another type.
        ValueError: The unit is unknown or no length from 0 to 1 m, or `max_depth_m` is not positive.
    """

    unit: Unit = "m"
    max_depth_m: float | None = None

    def __post_init__(self) -> None:
        # Equal formats are equal, however they were written.
        object.__setattr__(self, "unit", _as_unit(self.unit))
        object.__setattr__(self, "max_depth_m", _as_limit(self.max_depth_m))

    @property
    def metres_per_count(self) -> float:
        """What one count is in metres."""
        return _METRES_PER_UNIT[self.unit] if isinstance(self.unit, str) else self.unit

    def read(self, depth: DepthImages, *, check_values: bool | None = None) -> Tensor:
        """Accept depth images of this format, or say what is wrong with them; see `as_depth`."""
        images = _as_numbers(depth)
        if not images.is_floating_point():
            self._check_integers(images.dtype)
        images = self.metres(as_images(images))
        if check_values is None:
            check_values = images.device.type == "cpu"
        if check_values and not is_traced() and not looks_metric(images):
            nearest_m = self.beyond_range_m(depth)
            if nearest_m is not None:
                warn_of_scale(self.far_message(nearest_m))
            check_sign(images)
        return images

    def beyond_range_m(self, depth: DepthImages) -> float | None:
        """The nearest of what `depth` shows where that is beyond 100 m, which no depth camera sees; else None.

        What `max_depth_m` makes a hole counts: where millimetres are taken for metres, everything is beyond it.
        """
        nearest_m = float(_valid_range(DepthFormat(self.unit).read(depth, check_values=False))[0].min())
        return nearest_m if MAX_DEPTH_M < nearest_m < math.inf else None

    def metres(self, counts: Tensor) -> Tensor:
        """Metres, float32, of counts of any shape and dtype; 0 beyond `max_depth_m` and for an integer's largest value.

        Shares memory with `counts` where nothing had to change.
        """
        per_count, hole = self.metres_per_count, self._first_hole(counts.dtype)
        if not counts.is_floating_point() and not is_traced():
            # A threshold keeps what is above it, and takes a fifth of the time of a mask.
            return torch.threshold_(counts.float().neg_(), -hole, -0.0).mul_(-per_count)
        counts = counts.float()
        metres = counts if per_count == 1.0 else counts * per_count
        return metres if hole == math.inf else torch.where(counts < hole, metres, 0.0)

    def counts(self, metres: Tensor, dtype: torch.dtype) -> Tensor:
        """What `metres` reads as the given metres: rounded where `dtype` is of integers, and within their range."""
        counts = metres if self.metres_per_count == 1.0 else metres / self.metres_per_count
        if not dtype.is_floating_point:
            counts = counts.round().clamp(0.0, _LAST_VALID[dtype])
        return counts.to(dtype)

    def far_message(self, nearest_m: float) -> str:
        """What to say of depth in which nothing is nearer than this."""
        return (
            f"nothing is nearer than {nearest_m:.4g} m where depth is read with unit={self.unit!r}, and no depth "
            "camera sees that far: if the depth is in millimetres, pass unit='mm' or divide by 1000; for other units "
            "pass the metres of one count, such as unit=0.0001"
        )

    def _first_hole(self, dtype: torch.dtype) -> float:
        """The least count, as float32 tells counts apart, from which on all are holes."""
        if dtype.is_floating_point and self.max_depth_m is None:
            return math.inf
        limit = math.inf if self.max_depth_m is None else self.max_depth_m / self.metres_per_count
        last = limit if dtype.is_floating_point else min(limit, _LAST_VALID[dtype])
        return float(np.nextafter(np.float32(last), np.float32(math.inf)))

    def _check_integers(self, dtype: torch.dtype) -> None:
        if self.unit == "m":
            raise TypeError(
                f"depth in metres must be floating, got {dtype}: pass unit='mm' if these are millimetres, unit= the "
                "metres of one count if they are not, or convert to float metres first"
            )
        if dtype.itemsize == 1 and self.unit == "mm":
            raise TypeError(
                f"depth in millimetres must have 16 bits or more, got {dtype}, which ends at 0.255 m: it looks like an "
                "image made for display; pass the camera's own depth, or unit= the metres of one count"
            )


@dataclass(frozen=True)
class ZBuffer:
    """Depth as OpenGL keeps it, from 0 at the near plane to 1 at the far one.

    With n and f the planes' distances, z = f n / (f - d (f - n)) is the planar depth in metres: the inverse of the
    perspective projection's third row (OpenGL 4.6 specification, section 13.8; PyBullet's quickstart guide has it so).

    Attributes:
        near_m: Distance of the near plane.
        far_m: Distance of the far plane; what lies on it was not hit, and becomes a hole.

    Raises:
        ValueError: Where the planes are not in this order before the camera.
    """

    near_m: float
    far_m: float

    def __post_init__(self) -> None:
        if not 0 < self.near_m < self.far_m < math.inf:
            raise ValueError(
                f"a z-buffer's planes lie before the camera, the near one first; got near={self.near_m} m, "
                f"far={self.far_m} m."
            )

    def metres(self, buffer: Tensor) -> Tensor:
        """Planar depth of a buffer of any shape."""
        buffer = buffer.float()
        depth = self.far_m * self.near_m / (self.far_m - buffer * (self.far_m - self.near_m))
        return torch.where(buffer < 1.0, depth, 0.0)


def normalize_depth(
    depth: DepthImages,
    size: Size | None = None,
    pad_to: int | None = None,
    *,
    unit: Unit = "m",
    max_depth_m: float | None = None,
    multiple_of: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Turn depth images into the three standardised channels that DeFM's networks take.

    Holes are 0; NaN and infinities count as holes, so does the largest value of an integer type, negative depth counts
    as 0, and depth beyond 100 m as 100 m.

    Args:
        depth: Depth as `as_depth` accepts it: (H, W), (H, W, 1), (B, H, W), (B, 1, H, W) or (B, H, W, 1), tensor or
            array.
        size: Height and width to resize to, an int for a square; bilinear with antialiasing.
        pad_to: Pad with zeros on the right and at the bottom to a multiple of this (the BiFPN needs 32).
        unit: "m", "mm", or the metres of one count, such as 0.0001; integers are not accepted as metres.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        multiple_of: Round height and width down to a multiple of this by resizing (the ViTs need 14).
        dtype: Floating dtype of the result; the arithmetic is never in less than float32.

    Returns:
        (B, 3, H', W') on the device of `depth`.

    Raises:
        TypeError: The depth's dtype does not go with the unit, or an argument has the wrong type.
        ValueError: The depth's shape or values, or an argument's value, make no sense.

    Warns:
        ScaleWarning: See `as_depth`.
    """
    metres = as_depth(depth, unit, max_depth_m=max_depth_m)
    return normalize_channels(metres, size, pad_to, multiple_of=multiple_of, dtype=dtype)


def normalize_inverse_depth(
    inverse: DepthImages,
    size: Size | None = None,
    pad_to: int | None = None,
    *,
    multiple_of: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Normalize relative inverse depth, such as Depth Anything V2 gives, as in DeFM's pretraining.

    Each image is scaled to [0, 1], where 1 is the nearest, and becomes 10 exp(-5 x) metres.

    Args:
        inverse: Inverse depth of any scale, integers (uint8) or floats; shapes as in `as_depth`.
        size: See `normalize_depth`.
        pad_to: See `normalize_depth`.
        multiple_of: See `normalize_depth`.
        dtype: See `normalize_depth`.

    Returns:
        (B, 3, H', W') on the device of `inverse`.

    Raises:
        TypeError: The dtype is neither integer nor floating.
        ValueError: The shape makes no sense.
    """
    return normalize_channels(inverse_as_metres(inverse), size, pad_to, multiple_of=multiple_of, dtype=dtype)


def inverse_as_metres(inverse: DepthImages) -> Tensor:
    """The metres that relative inverse depth stands for in DeFM's pretraining, see `normalize_inverse_depth`.

    Returns:
        (B, H, W), float64 (float32 on MPS, which has none), between 10 exp(-5) and 10.
    """
    images = as_images(_as_numbers(inverse))
    # Resizing in float32 would be off by 1e-5: the published code does it in float64 here (and only here).
    images = images.to(torch.float32 if images.device.type == "mps" else torch.float64)
    images = images.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
    low, high = images.amin((1, 2), keepdim=True), images.amax((1, 2), keepdim=True)
    return torch.exp((images - low) / (high - low + 1e-8) * -5.0) * 10.0


def as_depth(
    depth: DepthImages, unit: Unit = "m", *, max_depth_m: float | None = None, check_values: bool | None = None
) -> Tensor:
    """Accept depth images, or say what is wrong with them.

    The 1 of a channel may stand first or last, which its place tells; shapes that read both ways are refused.

    Args:
        depth: (H, W), (H, W, 1), (B, H, W), (B, 1, H, W) or (B, H, W, 1); a tensor or array, floating, or of integers
            where `unit` is not "m". An integer type's largest value, such as 65535, is a hole. Arrays are taken in any
            byte order, memory order and stride.
        unit: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        check_values: Refuse depth in which everything is negative, and warn of depth in which nothing is nearer than
            100 m. By default on the CPU only: elsewhere the check would wait for the device. Where frames come one
            after the other, one without any valid pixel is no mistake but an image of holes: pass False, and have a
            `DepthScaleMonitor` watch them.

    Returns:
        (B, H, W), float32, metres, on the device of `depth`. Shares memory with `depth` where nothing had to change.

    Raises:
        TypeError: `depth` is no tensor or array, or its dtype does not go with the unit.
        ValueError: The unit is unknown, the limit is not positive, the shape is wrong or empty, or everything is
            negative.

    Warns:
        ScaleWarning: Something is seen, and nothing of it is nearer than 100 m: these may be millimetres.
    """
    is_metres = isinstance(unit, str) and unit == "m" and max_depth_m is None
    depth_format = _METRES if is_metres else DepthFormat(unit, max_depth_m)
    return depth_format.read(depth, check_values=check_values)


def normalize_channels(
    depth: Tensor,
    size: Size | None = None,
    pad_to: int | None = None,
    *,
    multiple_of: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Do what `normalize_depth` does to depth that `as_depth` has accepted; for use inside networks.

    It does not look at the values, so that it can be exported, compiled and differentiated.

    Args:
        depth: (B, H, W), floating, metres.
        size: See `normalize_depth`.
        pad_to: See `normalize_depth`.
        multiple_of: See `normalize_depth`.
        dtype: See `normalize_depth`.

    Returns:
        (B, 3, H', W').

    Raises:
        TypeError: `size`, `pad_to`, `multiple_of` or `dtype` has the wrong type.
        ValueError: `size`, `pad_to` or `multiple_of` makes no sense.
    """
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating one of torch, such as torch.float16, got {dtype!r}")
    if depth.dtype != torch.float64:
        depth = depth.float()  # the logarithm of a half is too coarse
    target = target_size(depth.shape[1], depth.shape[2], size, multiple_of)
    if pad_to is not None:
        _check_positive("pad_to", pad_to)
    if is_traced() or (depth.requires_grad and torch.is_grad_enabled()):
        return _normalize_traceable(depth, target, pad_to).to(dtype)
    padded = _padded(target, pad_to)
    if target == tuple(depth.shape[1:]) and kernels.serves(depth, dtype):
        return kernels.normalize_depth(
            depth,
            padded,
            dtype,
            _SCALE,
            _SHIFT,
            _NEAR,
            MAX_DEPTH_M,
            composed=lambda: _normalize_in_place(depth, target, pad_to).to(dtype),
        )
    if depth.device.type == "cpu" and depth.dtype == torch.float32 and depth.numel() > 0 and _just_runs():
        return cpu_depth.normalize(depth, target, padded, _SCALE, _SHIFT, _NEAR, MAX_DEPTH_M).to(dtype)
    return _normalize_in_place(depth, target, pad_to).to(dtype)


def input_channels(
    depth: Tensor,
    kind: str,
    size: Size | None = None,
    pad_to: int | None = None,
    *,
    multiple_of: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """What networks of a kind take of depth that `as_depth` has accepted.

    Args:
        depth: (B, H, W), floating, metres.
        kind: One of `INPUT_CHANNELS`.
        size: See `normalize_depth`.
        pad_to: See `normalize_depth`.
        multiple_of: See `normalize_depth`.
        dtype: See `normalize_depth`.

    Returns:
        (B, 3, H', W').

    Raises:
        TypeError, ValueError: See `normalize_channels`; or the kind is unknown.
    """
    if kind == "defm":
        return normalize_channels(depth, size, pad_to, multiple_of=multiple_of, dtype=dtype)
    if kind not in INPUT_CHANNELS:
        raise ValueError(f"input_channels must be one of {', '.join(INPUT_CHANNELS)}; got {kind!r}")
    target = target_size(depth.shape[1], depth.shape[2], size, multiple_of)
    plane = depth if depth.dtype == torch.float64 else depth.float()
    plane = plane.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0.0, MAX_DEPTH_M)
    if kind == "log":
        plane = plane.log1p() / _FAR
    plane = plane.unsqueeze(1)
    if target != tuple(depth.shape[1:]):
        plane = _resize(plane, target)
    height, width = _padded(target, pad_to)
    plane = F.pad(plane, (0, width - target[1], 0, height - target[0]))
    return plane.expand(-1, 3, -1, -1).to(dtype)


def target_size(height: int, width: int, size: Size | None = None, multiple_of: int | None = None) -> tuple[int, int]:
    """Height and width after resizing an image of `height` x `width`; arguments and errors as in `normalize_depth`."""
    if size is not None:
        height, width = _as_size(size)
    if multiple_of is not None:
        _check_positive("multiple_of", multiple_of)
        if height < multiple_of or width < multiple_of:
            raise ValueError(
                f"an image of {height}x{width} cannot be rounded down to a multiple of {multiple_of}: "
                f"pass a size of at least ({multiple_of}, {multiple_of})"
            )
        height, width = height - height % multiple_of, width - width % multiple_of
    return height, width


class DepthScaleMonitor:
    """Warns once when a camera that should see metres has sent many frames, and none of them looked like metres.

    That is: none ever exceeded 1.0, or in none was anything nearer than 100 m, or all were negative depth and holes.
    Empty frames do not count. Once a frame looked like metres, or a warning was given, it looks no more.

    Args:
        frames: Number of frames to wait for.
        depth_format: Unit of the depth; with a limit of 1 m or less, nothing beyond 1.0 is expected. Default: metres.
        camera: The camera's name, for the warning.
    """

    def __init__(self, frames: int = 256, *, depth_format: DepthFormat | None = None, camera: str = "") -> None:
        _check_positive("frames", frames)
        self.frames = frames
        # Without a limit: in millimetres, everything may be beyond it.
        self.depth_format = DepthFormat("m" if depth_format is None else depth_format.unit)
        self._sees_near = depth_format is not None and (depth_format.max_depth_m or math.inf) <= 1.0
        self.done = False
        self._of_camera = f" of {camera!r}" if camera else ""
        self._scaled = self._far = self._negative = 0
        self._nearest_m = math.inf

    def watch(self, images: Tensor) -> None:
        """`update` with depth as `as_depth` takes it; costs nothing once there is no need to look any more."""
        if not (self.done or is_traced()):
            self.update(self.depth_format.read(images, check_values=False))

    def update(self, depth: Tensor) -> None:
        """Watch a batch of depth images, (B, H, W), metres; a `ScaleWarning` comes where they look like no metres."""
        if self.done or is_traced():
            return
        depth = depth.detach()
        for some in (depth[:, ::8, ::8], depth):  # the first nearly always tells
            nearest, farthest = _valid_range(some)
            if bool(((farthest > 1.0) & (nearest <= MAX_DEPTH_M)).any()):
                self.done = True
                return
        self._far += int(((nearest > MAX_DEPTH_M) & (nearest < math.inf)).sum())
        self._scaled += int((nearest <= MAX_DEPTH_M).sum())
        self._negative += int(((nearest == math.inf) & (depth < 0).flatten(1).any(1)).sum())
        self._nearest_m = min(self._nearest_m, float(nearest.min()))
        seen = self._far + self._scaled
        if max(seen, 0 if seen else self._negative) < self.frames:
            return
        self.done = True
        if seen == 0:
            warn_of_scale(
                f"{self._negative} depth images{self._of_camera} held nothing but negative values and holes: flip the "
                "sign if the camera looks along its negative z axis. Until then they all count as empty."
            )
        elif self._far > self._scaled:
            message = self.depth_format.far_message(self._nearest_m)
            warn_of_scale(f"in {self._far} depth images{self._of_camera} {message}")
        elif not self._sees_near:
            warn_of_scale(
                f"no pixel exceeded 1.0 in {self._scaled} depth images{self._of_camera}: they look scaled to [0, 1], "
                "not in metres. Undo the scaling, or ignore this if the camera never sees farther than 1 m."
            )


def looks_metric(images: Tensor) -> bool:
    """Whether anything in (B, H, W) metres is valid and nearer than 100 m."""
    some = images[0, ::8, ::8]  # it nearly always tells, and is much cheaper
    return any(bool(((x > 0) & (x <= MAX_DEPTH_M)).any()) for x in (some, images))


def check_sign(images: Tensor) -> None:
    """Raises a ValueError where (B, H, W) holds negative values and no other, NaN aside."""
    if bool((images < 0).any()) and not bool((images >= 0).any()):
        raise ValueError(
            f"depth must be positive, got only negative values (such as {images.min().item():.4g}): "
            "flip the sign if the camera looks along its negative z axis"
        )


def warn_of_scale(message: str) -> None:
    """A `ScaleWarning` at the caller's line, the nearest one outside this package and PyTorch."""
    level, frame = 1, sys._getframe(0)
    while frame.f_back is not None and frame.f_globals["__name__"].partition(".")[0] in ("defm_rl", "torch"):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, ScaleWarning, stacklevel=level)


def is_traced() -> bool:
    """Whether a graph is being recorded, so that nothing may depend on values."""
    return torch.compiler.is_compiling() or torch._C._is_tracing()


def _just_runs() -> bool:
    """Whether an operation that PyTorch does not know of may run: no mode watches, nothing is derived forward."""
    return not kernels.is_watched() and cpu_depth.available()


def as_tensor(array: DepthImages) -> Tensor:
    """The same memory as a tensor, where PyTorch can share it; else a copy."""
    if isinstance(array, Tensor):
        return array
    # PyTorch takes neither foreign byte orders nor negative strides, and warns about read-only memory.
    if array.flags.carray and array.dtype.isnative:
        return torch.from_numpy(array)
    return torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W", "A"]))


def as_images(images: _Images) -> _Images:
    """View any shape that `as_depth` accepts as (B, H, W).

    Raises:
        ValueError: The shape is wrong, empty, or reads both ways.
    """
    shape = tuple(images.shape)
    expected = f"expected (H, W), (H, W, 1), (B, H, W), (B, 1, H, W) or (B, H, W, 1), got {shape}"
    if len(shape) not in (2, 3, 4):
        raise ValueError(f"depth has {len(shape)} dimensions: {expected}")
    if 0 in shape:
        raise ValueError(f"depth is empty: {expected}")
    if len(shape) == 2:
        return images[None]
    if len(shape) == 3:
        if shape[2] == 3:
            raise ValueError(
                f"depth reads as {shape[0]} images of {shape[1]}x{shape[2]} pixels: {expected}. "
                "For one image with its channels last, pass depth[..., 0]"
            )
        return images[None, ..., 0] if shape[2] == 1 else images
    if shape[1] == 1 and shape[3] == 1 and shape[2] != 1:
        raise ValueError(
            f"depth could have its channel first or last: {expected}. Pass (B, H, W) to say which is meant"
        )
    if shape[1] == 1:
        return images[:, 0]
    if shape[3] == 1:
        return images[..., 0]
    hint = ""
    if 3 in (shape[1], shape[3]):
        hint = ". Three channels: pass the depth itself, neither a colour image nor depth that was normalized before"
    raise ValueError(f"depth must have one channel: {expected}{hint}")


def _as_numbers(depth: DepthImages) -> Tensor:
    """The depth as a tensor, where it is floating or integer numbers."""
    if isinstance(depth, np.ndarray):
        if depth.dtype.kind not in "fiu" or depth.dtype.itemsize > 8:
            raise TypeError(f"depth must be floating or integer, got an array of {depth.dtype}")
    elif not isinstance(depth, Tensor):
        raise TypeError(f"depth must be a torch tensor or a numpy array, got {type(depth).__name__}")
    elif depth.dtype == torch.bool or depth.is_complex():
        raise TypeError(f"depth must be floating or integer, got a tensor of {depth.dtype}")
    return as_tensor(depth)


def _as_unit(unit: object) -> Unit:
    """The unit, checked; "m" and "mm" where a number says the same."""
    choices = (
        "pass 'm' or 'mm', or the metres of one count as a number, such as 0.01 for centimetres or 0.0001 for a tenth "
        "of a millimetre"
    )
    if isinstance(unit, str):
        if unit not in _METRES_PER_UNIT:
            raise ValueError(f"unknown unit {unit!r}: {choices}")
        return unit
    if isinstance(unit, bool) or not isinstance(unit, Real):
        raise TypeError(f"unit must be a name or a number, got {unit!r}: {choices}")
    metres = float(unit)
    if not 0.0 < metres <= 1.0:
        inverse = f": for {metres:g} counts to the metre pass 1/{metres:g}" if 1.0 < metres < math.inf else ""
        raise ValueError(f"no count of a depth camera is {metres:g} m{inverse}; {choices}")
    return next((name for name, value in _METRES_PER_UNIT.items() if value == metres), metres)


def _as_limit(max_depth_m: object) -> float | None:
    """The limit, checked; None where it is infinite."""
    if max_depth_m is None:
        return None
    if isinstance(max_depth_m, bool) or not isinstance(max_depth_m, Real):
        raise TypeError(f"max_depth_m must be a number of metres or None, got {max_depth_m!r}")
    limit_m = float(max_depth_m)
    if not limit_m > 0.0:
        raise ValueError(f"max_depth_m must be positive, got {limit_m:g}: pass None for no limit")
    return None if limit_m == math.inf else limit_m


def _valid_range(images: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest and the farthest valid depth of each of (B, H, W), (B,); infinity and 0 where there is none."""
    pixels = images.flatten(1)
    valid = (pixels > 0) & (pixels < math.inf)
    return torch.where(valid, pixels, math.inf).amin(1), torch.where(valid, pixels, 0.0).amax(1)


def _check_positive(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer | torch.SymInt):
        raise TypeError(f"{name} must be an int, got {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")


def _as_size(size: Size | Sequence[int]) -> tuple[int, int]:
    """An int or (height, width), checked."""
    if isinstance(size, str | bytes):
        raise TypeError(f"size must be an int or (height, width), got {size!r}")
    if isinstance(size, Sequence):
        if len(size) != 2:
            raise ValueError(f"size must be an int or (height, width), got {size!r}")
        height, width = size
    else:
        height = width = size
    _check_positive("size", height)
    _check_positive("size", width)
    return height, width


def _padded(size: tuple[int, int], pad_to: int | None) -> tuple[int, int]:
    """Height and width rounded up to multiples of `pad_to`."""
    multiple = pad_to or 1
    return size[0] + -size[0] % multiple, size[1] + -size[1] % multiple


def _resize(planes: Tensor, size: tuple[int, int]) -> Tensor:
    if is_traced() and not torch.compiler.is_dynamo_compiling():
        # Exported, as products with fixed matrices: ONNX has no resize that PyTorch's antialiasing could become.
        rows, columns = (
            torch.from_numpy(cpu_depth.resizing_matrix(int(old), new)).to(planes)
            for old, new in zip(planes.shape[-2:], size, strict=True)
        )
        return rows @ planes @ columns.T
    return F.interpolate(planes, size, mode="bilinear", align_corners=False, antialias=True)


def _span(low: Tensor, high: Tensor) -> Tensor:
    """What L - low is divided by: high - low, or 1 where an image is flat and L - low is 0 anyway."""
    return torch.where(high > low, high - low, 1.0)


def _normalize_traceable(depth: Tensor, size: tuple[int, int], pad_to: int | None) -> Tensor:
    """The definition, out of place so that it can be traced and differentiated."""
    log_depth = depth.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp(0.0, MAX_DEPTH_M).log1p()
    low, high = log_depth.amin((1, 2), keepdim=True), log_depth.amax((1, 2), keepdim=True)
    # Resizing commutes with affine maps: the first and third channel come from one resized plane.
    above_low, near = log_depth - low, log_depth.clamp(max=_NEAR)
    if size != tuple(depth.shape[1:]):
        above_low, near = _resize(torch.stack((above_low, near), 1), size).unbind(1)
    channels = torch.stack(
        (
            (above_low + low) * _SCALE[0] + _SHIFT[0],
            near * _SCALE[1] + _SHIFT[1],
            above_low / _span(low, high) * _SCALE[2] + _SHIFT[2],
        ),
        1,
    )
    if pad_to is not None:
        height, width = _padded(size, pad_to)
        channels = F.pad(channels, (0, width - size[1], 0, height - size[0]))
    return channels


def _normalize_in_place(depth: Tensor, size: tuple[int, int], pad_to: int | None) -> Tensor:
    """As `_normalize_traceable`, but each channel is written straight into its place, which is faster."""
    padded = _padded(size, pad_to)
    make = torch.empty if padded == size else torch.zeros
    out = make((depth.shape[0], 3, *padded), dtype=depth.dtype, device=depth.device)
    inside = out[:, :, : size[0], : size[1]]
    if size == tuple(depth.shape[1:]):
        _write_channels(depth, inside)
        return out
    at_once = len(depth)
    if depth.device.type == "cpu":
        # Some images after the others: what lies between depth and channels then fits into memory that is used again.
        at_once = max(_PIXELS_AT_ONCE // max(depth[0].numel(), size[0] * size[1]), torch.get_num_threads())
    planes = depth.new_empty(min(at_once, len(depth)), 2, *depth.shape[1:])
    for images, channels in zip(depth.split(at_once), inside.split(at_once), strict=True):
        _write_resized_channels(images, channels, planes[: len(images)])
    return out


def _write_channels(depth: Tensor, out: Tensor) -> None:
    """Write the channels of `depth`, (B, H, W), into `out`, (B, 3, H, W), which is all the memory that it takes."""
    depth, low, high = _cleaned(depth)
    first, second, third = out.unbind(1)
    log_depth = torch.log1p(depth, out=first)
    _scale(log_depth, 1, second).clamp_(max=_NEAR * _SCALE[1] + _SHIFT[1])
    _scale(torch.sub(log_depth, low, out=third).div_(_span(low, high)), 2, third)
    _scale(log_depth, 0, first)


def _write_resized_channels(depth: Tensor, out: Tensor, planes: Tensor) -> None:
    """Write the channels of `depth`, (B, H, W), resized into `out`, (B, 3, H', W'). `planes`: (B, 2, H, W) scratch."""
    depth, low, high = _cleaned(depth)
    # Resizing is what takes longest: where nothing is beyond the second channel's range, it comes from the same plane.
    all_near = depth.device.type == "cpu" and bool((high <= _NEAR).all())
    above_low = torch.log1p(depth, out=planes[:, 0])
    if not all_near:
        torch.clamp(above_low, max=_NEAR, out=planes[:, 1])
    above_low.sub_(low)
    resized = _resize(planes[:, :1] if all_near else planes, (out.shape[2], out.shape[3]))
    above_low = resized[:, 0]
    first, second, third = out.unbind(1)
    torch.add(low * _SCALE[0] + _SHIFT[0], above_low, alpha=_SCALE[0], out=first)
    if all_near:
        torch.add(low * _SCALE[1] + _SHIFT[1], above_low, alpha=_SCALE[1], out=second)
    else:
        _scale(resized[:, 1], 1, second)
    _scale(above_low.div_(_span(low, high)), 2, third)


def _cleaned(depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Depth without holes' codes and within the range, and the logarithms of each image's extremes, (B, 1, 1)."""
    low, high = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
    # Simulated depth is mostly clean, and on a CPU asking is cheaper than cleaning; elsewhere it waits for the device.
    if depth.device.type != "cpu" or not bool(((low >= 0.0) & (high <= MAX_DEPTH_M)).all()):
        depth = depth.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0).clamp_(0.0, MAX_DEPTH_M)
        low, high = depth.amin((1, 2), keepdim=True), depth.amax((1, 2), keepdim=True)
    return depth, low.log1p_(), high.log1p_()


def _scale(plane: Tensor, channel: int, out: Tensor) -> Tensor:
    """Write plane * scale + shift of a channel into `out`, in one pass; `out` may be the plane itself."""
    return torch.add(plane.new_full((), _SHIFT[channel]), plane, alpha=_SCALE[channel], out=out)


_METRES = DepthFormat()
