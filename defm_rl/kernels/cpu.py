"""Operations of `cpu.cpp` for frozen networks on a processor, where they can be built (see `build`)."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from defm_rl.kernels import build


@cache
def available() -> bool:
    """Whether the operations can be used: loads them, and builds them first where they are not on disk yet.

    Building takes some twenty seconds, once for each machine's instructions and PyTorch.
    """
    if not hasattr(torch.ops.defm_rl, "conv3x3"):  # a second registration would end the process
        build.load("cpu.cpp", _flags(), torch.ops.load_library)
    return hasattr(torch.ops.defm_rl, "conv3x3")


@cache
def multiplies_bfloat16() -> bool:
    """Whether the operations can be used with products of bfloat16 that are faster than those of float32."""
    return _has_bfloat16() and available()


def group_norm_act_(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, activation: str, residual: Tensor | None
) -> Tensor:
    """`defm_rl.kernels.group_norm_act` of a float32 `x`, which it becomes, where `available()`. No gradients."""
    out: Tensor = torch.ops.defm_rl.group_norm_act_(x, groups, weight, bias, eps, activation, residual)
    return out


def squeeze_excite_(
    x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, activation: str
) -> Tensor:
    """`x` times the gate sigmoid(activation(mean(x) @ weight1 + bias1) @ weight2 + bias2), where `available()`.

    Args:
        x: (B, C, H, W), float32, fastest with the channels last.
        weight1: (C, S).
        bias1: (S,).
        weight2: (S, C).
        bias2: (C,).
        activation: "none", "relu" or "silu".

    Returns:
        `x`, which has been written over.
    """
    out: Tensor = torch.ops.defm_rl.squeeze_excite_(x, weight1, bias1, weight2, bias2, activation)
    return out


def grouped_conv(x: Tensor, weight: Tensor, packed: Tensor, stride: int) -> Tensor:
    """A grouped convolution without bias, padded by half its side, where `available()`. No gradients.

    Ours where it is faster than PyTorch's, which depends on the channels of a group, the size and the instructions.

    Args:
        x: (B, C, H, W), float32, fastest with the channels last.
        weight: (C, C / groups, side, side), side odd.
        packed: The same in our order, from `grouped_weight`.
        stride: Stride.

    Returns:
        (B, C, H / stride, W / stride), sizes rounded up, channels last.
    """
    out: Tensor = torch.ops.defm_rl.grouped_conv(x, weight, packed, stride)
    return out


def grouped_weight(weight: Tensor) -> Tensor:
    """(C, width, side, side) to (C / width, side, side, in, out); of a depthwise convolution, to (side, side, C)."""
    width = weight.shape[1]
    if width == 1:
        return weight[:, 0].permute(1, 2, 0).contiguous()
    return weight.unflatten(0, (-1, width)).permute(0, 3, 4, 2, 1).contiguous()


def product_conv(x: Tensor, packed: Tensor, bias: Tensor | None, out_channels: int, side: int, stride: int) -> Tensor:
    """A convolution padded by half its side, as a product of matrices, where `available()`. No gradients.

    Args:
        x: (B, C, H, W), float32, fastest with the channels last.
        packed: From `product_weight`.
        bias: (K,), added.
        out_channels: K.
        side: Side of the kernel, odd.
        stride: Stride.

    Returns:
        (B, K, H / stride, W / stride), sizes rounded up, channels last.
    """
    out: Tensor = torch.ops.defm_rl.product_conv(x, packed, bias, out_channels, side, stride)
    return out


def product_weight(weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(K, C, side, side) in the order that `product_conv` reads it in on this machine.

    Args:
        weight: The weight.
        dtype: What is multiplied, float32 or bfloat16; sums are float32.
    """
    packed: Tensor = torch.ops.defm_rl.product_weight(weight, dtype)
    return packed


def conv3x3(x: Tensor, winograds: Tensor, products: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution padded by 1 with about half the products, where `available()`. No gradients.

    After Winograd, in tiles of 2x2 pixels (Lavin & Gray 2015, arXiv 1509.09308); or directly but without the padding,
    where that takes fewer products: in maps of one row or column, of 2x2, 2x3, 3x3 and 3x5 pixels. After Winograd, an
    infinity gives NaN in some pixels where it would have given infinities.

    Args:
        x: (B, C, H, W), float32, fastest with the channels last.
        winograds: The weight, from `winograd_weight`.
        products: The weight, from `product_weight`.
        bias: (K,), added.

    Returns:
        (B, K, H, W), channels last.
    """
    out: Tensor = torch.ops.defm_rl.conv3x3(x, winograds, products, bias)
    return out


def winograd_weight(weight: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(K, C, 3, 3), K and C multiples of 32, to the 16 K x C numbers that `conv3x3` takes on this machine.

    Args:
        weight: The weight.
        dtype: What is multiplied, float32 or bfloat16; sums are float32.
    """
    packed: Tensor = torch.ops.defm_rl.winograd_weight(weight, dtype)
    return packed


def _has_bfloat16() -> bool:
    """Whether the processor has instructions for products of bfloat16."""
    return build.capability() == "AVX512" and bool(torch.cpu._is_avx512_bf16_supported())


def _flags() -> list[str]:
    capability, includes = build.capability(), Path(torch.__file__).parent / "include"
    return [
        *(["-mavx512bf16"] if _has_bfloat16() else []),
        f"-I{includes}",
        f"-I{includes / 'torch/csrc/api/include'}",
        f"-DCPU_CAPABILITY={capability}",
        f"-DCPU_CAPABILITY_{capability}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]
