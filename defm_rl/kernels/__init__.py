"""Fused kernels, in Triton for CUDA devices and in C++ for processors, and when the former are used.

Triton is imported on first use only.

The rule: tensors on a device of `device_types`, in a dtype of `DTYPES`, not empty, and triton can be imported. Callers
see to it that nothing is being traced: `torch.compile`, `torch.export` and `torch.jit.trace` get PyTorch's operations.
"""

import importlib.util
import logging
from collections.abc import Callable
from functools import cache
from typing import Protocol, TypeVar

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import _get_current_dispatch_mode

_logger = logging.getLogger(__name__)
_T = TypeVar("_T")

device_types = {"cuda"}
"""Types of the devices whose tensors go through the kernels. Clear it to do without them."""

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
"""What the kernels read and write; their arithmetic is float32. Everything else is PyTorch's."""


class GroupNormActFunction(Protocol):
    """The signature of `defm_rl.encoders.layers.group_norm_act`."""

    def __call__(
        self,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        activation: str,
        residual: Tensor | None = None,
    ) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""


def serves(x: Tensor, dtype: torch.dtype | None = None) -> bool:
    """Whether the kernels take a tensor.

    Args:
        x: What would be read.
        dtype: What would be written, where it differs.
    """
    return (
        x.device.type in device_types
        and x.dtype in DTYPES
        and (dtype is None or dtype in DTYPES)
        and x.numel() > 0
        and _has_triton()
    )


def group_norm_act(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    activation: str,
    residual: Tensor | None,
    composed: GroupNormActFunction,
) -> Tensor:
    """activation(group_norm(x) + residual), differentiable once.

    Args:
        x: (B, C, H, W), contiguous or channels last, as the result will be; anything else is made contiguous.
        groups: Number of groups, a divisor of C.
        weight: (C,) scale.
        bias: (C,) shift.
        eps: Added to the variance.
        activation: "none", "relu" or "silu".
        residual: Added before the activation; same shape as `x`.
        composed: The same from PyTorch's operations, for where the kernels do not compile.

    Returns:
        (B, C, H, W) in the dtype of `x`; float32 under autocast, as PyTorch's group normalization is.
    """

    def fused() -> Tensor:
        from defm_rl.kernels.group_norm import fused_group_norm_act

        return fused_group_norm_act(x, weight, bias, residual, groups, eps, activation, composed)

    return attempt(fused, lambda: composed(x, groups, weight, bias, eps, activation, residual))


def normalize_depth(
    depth: Tensor,
    padded: tuple[int, int],
    dtype: torch.dtype,
    scale: tuple[float, float, float],
    shift: tuple[float, float, float],
    near: float,
    max_depth_m: float,
    composed: Callable[[], Tensor],
) -> Tensor:
    """The channels of `defm_rl.depth.normalize_depth` without a resize; no gradients.

    With L = log1p(depth), they are L, min(L, near) and (L - min L) / (max L - min L), each times its scale plus its
    shift.

    Args:
        depth: (B, H, W), metres, float32.
        padded: Height and width of the result, at least H and W; what is beyond them is 0.
        dtype: Dtype of the result.
        scale: Of each channel.
        shift: Of each channel.
        near: Where the second channel ends.
        max_depth_m: Depth beyond this is clipped to it.
        composed: The same from PyTorch's operations, for where the kernels do not compile.

    Returns:
        (B, 3, *padded).
    """

    def fused() -> Tensor:
        from defm_rl.kernels.depth import normalize

        return normalize(depth, padded, dtype, scale, shift, near, max_depth_m)

    return attempt(fused, composed)


def is_watched() -> bool:
    """Whether a mode watches PyTorch's operations, or derives them forward: it would not see any other."""
    return _get_current_dispatch_mode() is not None or forward_ad._current_level >= 0


def attempt(fused: Callable[[], _T], composed: Callable[[], _T]) -> _T:
    """`fused()`; or, where that fails, `composed()`, and no kernels from then on.

    A kernel is compiled where it first runs, for that GPU, with tools of that machine: it may fail in as many ways as
    those can (no C compiler, no place for the cache, too little shared memory), and none of them should end a training.
    """
    try:
        return fused()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        device_types.clear()
        _logger.warning("Triton kernels do not run here, PyTorch's operations take their place: %r", error)
        return composed()


@cache
def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None
