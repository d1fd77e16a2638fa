"""Random numbers for batches of frames: each frame's depend on (seed, stream, number in the stream) and nothing else.

They are hashes of counters, not a generator's state: any device, any batch and any order give the same numbers.
"""

import functools
import math

import torch
from torch import Tensor

from defm_rl.depth import is_traced
from defm_rl.kernels import cpu_sensors

_GOLDEN_64 = 0x9E3779B97F4A7C15
# Rounds of the 32-bit hash "lowbias32" (C. Wellons, 2018) and of SplitMix64 (Steele et al., OOPSLA 2014).
_MULTIPLY_32 = (0x7FEB352D, 0x846CA68B)
_MULTIPLY_64 = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class Noise:
    """The random numbers of one frame of each stream; an episode of an environment, say, is a stream.

    Every call draws afresh; the n-th call of one frame gives the same numbers whenever it is repeated.

    Args:
        seed: Any int.
        streams: Which streams are in the batch, (B,) integers.
        frames: The number of the frame of each, (B,) integers.
        held: For how many frames the numbers stay the same; when they change differs between streams.
    """

    def __init__(self, seed: int, streams: Tensor, frames: Tensor, *, held: int = 1) -> None:
        self._seed, self._streams, self._frames = seed, streams, frames
        key = _signed(_hash_int(seed), 64)
        if has_kernels(streams, frames, dtype=torch.int64):
            self._low, self._high = cpu_sensors.state(key, streams, frames, held)
        else:
            streams, frames = streams.to(torch.int64), frames.to(torch.int64)
            if held > 1:
                frames = (frames + _mix_64(streams).remainder(held)).div(held, rounding_mode="floor")
            state = _mix_64(_mix_64(streams + key) + frames)
            self._low, self._high = state.to(torch.int32), (state >> 32).to(torch.int32)
        self._draws = 0
        self.batch = len(streams)
        self.device = streams.device

    def held(self, frames: int) -> "Noise":
        """Random numbers that stay the same for so many frames; when they change differs between streams."""
        held = Noise(self._seed + 1, self._streams, self._frames, held=frames)
        held._draws = self._draws
        return held

    def uniform(self, *shape: int) -> Tensor:
        """Uniform in [0, 1), (B, *shape), float32, in steps of 2**-24."""
        count = math.prod(shape)
        if self.has_kernels():
            return cpu_sensors.uniform(self.take(1), count).reshape(self.batch, *shape)
        bits = self._bits(count)
        return (bits.bitwise_right_shift_(8).bitwise_and_(0xFFFFFF) * 2.0**-24).reshape(self.batch, *shape)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, (B, *shape), float32."""
        count = math.prod(shape)
        if self.has_kernels():
            return cpu_sensors.normal(self.take(2), count).reshape(self.batch, *shape)
        halves = torch.cat(self.normal_pair((count + 1) // 2), 1)
        return halves[:, :count].reshape(self.batch, *shape)

    def normal_pair(self, *shape: int) -> tuple[Tensor, Tensor]:
        """Standard normal, twice (B, *shape), float32; pairs by Box and Muller (1958)."""
        # 1 - u lies in (0, 1], whose logarithm is finite.
        radius = self.uniform(*shape).neg_().add_(1.0).log_().mul_(-2.0).sqrt_()
        angle = self.uniform(*shape).mul_(2 * math.pi)
        return angle.cos().mul_(radius), angle.sin_().mul_(radius)

    def has_kernels(self, *images: Tensor) -> bool:
        """Whether kernels for this processor may draw these random numbers, and take these images."""
        return has_kernels(self._low, dtype=torch.int32) and has_kernels(*images)

    def take(self, draws: int) -> cpu_sensors.Numbers:
        """So many draws, for kernels."""
        self._draws += draws
        return cpu_sensors.Numbers(self._low, self._high, self._draws - draws)

    def _bits(self, count: int) -> Tensor:
        """(B, count) random int32."""
        salt = self._salt()
        x = _counters(count, self.device) ^ (self._low ^ _signed(salt, 32))[:, None]
        _mix_32_(x).bitwise_xor_((self._high ^ _signed(salt >> 32, 32))[:, None])
        return _mix_32_(x)

    def _salt(self) -> int:
        """Of the next draw."""
        self._draws += 1
        return _hash_int(self._draws)


def has_kernels(*tensors: Tensor, dtype: torch.dtype = torch.float32) -> bool:
    """Whether kernels for this processor take the place of PyTorch's operations on tensors of this dtype."""
    return not is_traced() and cpu_sensors.serves(*tensors, dtype=dtype)


def _signed(value: int, bits: int) -> int:
    """The two's complement integer of the lowest bits: torch has no unsigned arithmetic."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def _hash_int(value: int) -> int:
    """SplitMix64 on Python integers; different for different values below 2**64."""
    mask = (1 << 64) - 1
    value = (value * _GOLDEN_64 + _GOLDEN_64) & mask
    value = ((value ^ (value >> 30)) * _MULTIPLY_64[0]) & mask
    value = ((value ^ (value >> 27)) * _MULTIPLY_64[1]) & mask
    return value ^ (value >> 31)


def _mix_64(x: Tensor) -> Tensor:
    """SplitMix64 on int64; the masks make torch's arithmetic shifts logical ones."""
    x = x * _signed(_GOLDEN_64, 64)
    x = (x ^ ((x >> 30) & ((1 << 34) - 1))) * _signed(_MULTIPLY_64[0], 64)
    x = (x ^ ((x >> 27) & ((1 << 37) - 1))) * _signed(_MULTIPLY_64[1], 64)
    return x ^ ((x >> 31) & ((1 << 33) - 1))


def _mix_32_(x: Tensor) -> Tensor:
    """lowbias32 in place."""
    x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF)).mul_(_MULTIPLY_32[0])
    x.bitwise_xor_((x >> 15).bitwise_and_(0x1FFFF)).mul_(_signed(_MULTIPLY_32[1], 32))
    return x.bitwise_xor_((x >> 16).bitwise_and_(0xFFFF))


@functools.lru_cache(maxsize=32)
def _counters(count: int, device: torch.device) -> Tensor:
    return torch.arange(count, dtype=torch.int32, device=device) * _signed(_GOLDEN_64 >> 32, 32)
