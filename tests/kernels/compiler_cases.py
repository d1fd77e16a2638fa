"""The kernels compile for a GPU, which needs none: what the interpreter lets pass, the compiler may refuse."""

from typing import Any

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from defm_rl.kernels import depth, group_norm

IMAGES = ("x", "residual", "y", "gradient", "x_gradient", "residual_gradient")
INTEGERS = ("pixels", "groups", "group_channels", "height", "width", "padded_height", "padded_width")
SCALARS = ("eps", "max_depth_m", "near", "scale0", "scale1", "scale2", "shift0", "shift1", "shift2")

WHOLE = {"block_pixels": 1024, "block_groups": 1, "block_channels": 2, "parts": 1, "pixel_stride": 1}
SHARED = {"block_pixels": 64, "block_groups": 8, "block_channels": 4, "parts": 8, "channel_stride": 1}
RELU = {"activation": "relu", "has_residual": True}
SILU = {"activation": "silu", "has_residual": False}


def type_of(name: str) -> str:
    if name in IMAGES:
        return "*fp16"
    if name in INTEGERS or name.endswith("stride"):
        return "i32"
    return "fp32" if name in SCALARS else "*fp32"


@pytest.mark.parametrize(
    ("kernel", "constants"),
    [
        (group_norm._moments_kernel, SHARED),
        (group_norm._forward_kernel, WHOLE | RELU),
        (group_norm._forward_kernel, SHARED | SILU),
        (group_norm._sums_kernel, SHARED | RELU),
        (group_norm._gradients_kernel, WHOLE | SILU),
        (depth._range_kernel, {"parts": 8, "block": 1024}),
        (depth._normalize_kernel, {"parts": 8, "block": 1024}),
    ],
)
def test_compiles(kernel: Any, constants: dict[str, Any]) -> None:
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else type_of(name) for name in names}
    constexprs = {(names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs)
    compiled = triton.compile(source, target=GPUTarget("cuda", 80, 32))
    assert ".target sm_80" in compiled.asm["ptx"]
