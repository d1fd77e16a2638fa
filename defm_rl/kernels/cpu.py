"""Operations of `cpu.cpp` for frozen networks on a processor: built where they are first needed, and kept on disk.

They need a C++ compiler and Linux. Where there is none, or where it fails, PyTorch's operations go on doing the work.
"""

import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

_logger = logging.getLogger(__name__)

_SOURCE = Path(__file__).with_name("cpu.cpp")
# By what PyTorch's own kernels use here, which its vector classes are told in the same way.
_INSTRUCTIONS = {
    "AVX512": ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mfma", "-mf16c"),
    "AVX2": ("-mavx2", "-mfma", "-mf16c"),
    "DEFAULT": (),
}
_TIMEOUT_S = 300


@cache
def available() -> bool:
    """Whether the operations can be used: loads them, and builds them first where they are not on disk yet.

    Building takes some twenty seconds, once for each machine's instructions and PyTorch. They are kept in
    `$XDG_CACHE_HOME/defm_rl` or `~/.cache/defm_rl`.
    """
    if hasattr(torch.ops.defm_rl, "conv3x3"):  # a second registration would end the process
        return True
    if sys.platform != "linux":
        return False
    compiler = os.environ.get("CXX") or "c++"
    try:
        flags = _flags()
        library = _library(flags)
        if not library.exists():
            if shutil.which(compiler) is None:
                _logger.info("Encoding on this processor would be faster with a C++ compiler (g++), which is not here.")
                return False
            _build(compiler, flags, library)
        torch.ops.load_library(str(library))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        detail = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        _logger.warning("Kernels for this processor cannot be built, PyTorch's operations take their place: %s", detail)
        return False
    return True


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


def product_weight(weight: Tensor) -> Tensor:
    """(K, C, side, side) in the order that `product_conv` reads it in on this machine."""
    packed: Tensor = torch.ops.defm_rl.product_weight(weight)
    return packed


def conv3x3(x: Tensor, winograds: Tensor, products: Tensor, bias: Tensor | None) -> Tensor:
    """A 3x3 convolution padded by 1 with about half the products, where `available()`. No gradients.

    After Winograd, in tiles of 2x2 pixels (Lavin & Gray 2015, arXiv 1509.09308); or directly but without the padding,
    where that takes fewer products: in maps of one row or column, of 2x2, 2x3, 3x3 and 3x5 pixels.

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


def winograd_weight(weight: Tensor) -> Tensor:
    """(K, C, 3, 3), K and C multiples of 32, to the 16 K x C numbers that `conv3x3` takes on this machine."""
    packed: Tensor = torch.ops.defm_rl.winograd_weight(weight)
    return packed


def _flags() -> list[str]:
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in _INSTRUCTIONS:
        capability = "DEFAULT"
    return [
        "-std=c++20",
        "-O3",
        "-fno-math-errno",
        "-fPIC",
        "-fopenmp",
        *_INSTRUCTIONS[capability],
        f"-DCPU_CAPABILITY={capability}",
        f"-DCPU_CAPABILITY_{capability}",
        f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
    ]


def _library(flags: list[str]) -> Path:
    """Where the operations are kept, by all that they depend on."""
    parts = [_SOURCE.read_text(), torch.__version__, platform.machine(), *flags]
    digest = hashlib.sha256("\n".join(parts).encode()).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "defm_rl" / f"cpu-{digest[:16]}.so"


def _build(compiler: str, flags: list[str], library: Path) -> None:
    torch_root = Path(torch.__file__).parent
    start = time.perf_counter()
    library.parent.mkdir(parents=True, exist_ok=True)
    # Processes that start together each build their own; a file is there whole or not at all.
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        built = Path(folder) / library.name
        includes = [f"-I{torch_root / folder}" for folder in ("include", "include/torch/csrc/api/include")]
        _run(compiler, *flags, *includes, "-c", str(_SOURCE), "-o", f"{built}.o")
        # Without -fopenmp: PyTorch brings an OpenMP of its own, and a second one would have threads of its own.
        _run(compiler, "-shared", f"{built}.o", f"-L{torch_root / 'lib'}", "-ltorch_cpu", "-lc10", "-o", str(built))
        built.replace(library)
    _logger.info("Building the kernels for this processor took %.1f s.", time.perf_counter() - start)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=_TIMEOUT_S)
