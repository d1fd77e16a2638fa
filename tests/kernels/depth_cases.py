"""The normalization of depth against PyTorch's operations, which normalize on the CPU."""

import math

import pytest
import torch
from conftest import rounding
from torch import Tensor

from defm_rl import kernels
from defm_rl.depth import normalize_depth

pytestmark = pytest.mark.usefixtures("no_fallback")


def without_kernels(depth: Tensor, pad_to: int | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    device_types, kernels.device_types = kernels.device_types, set()
    try:
        return normalize_depth(depth.cpu(), pad_to=pad_to, dtype=dtype).to(depth.device)
    finally:
        kernels.device_types = device_types


def scene(*shape: int, holes: bool = True) -> Tensor:
    depth = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 8 + 0.3
    if holes:
        depth[:, 1, 1:4] = torch.tensor([math.nan, math.inf, -math.inf])
        depth[:, 2, 1:4] = torch.tensor([-1.0, 150.0, 0.0])
    return depth


@pytest.mark.parametrize(
    ("shape", "pad_to"),
    [
        ((3, 24, 40), None),
        ((2, 24, 40), 32),
        ((1, 32, 32), 32),
        ((1, 25, 41), 7),
        ((1, 5, 205), None),
        ((2, 130, 127), None),
        ((1, 130, 127), 32),
    ],
)
@pytest.mark.parametrize("holes", [False, True])
def test_channels_and_padding(
    device: torch.device, shape: tuple[int, int, int], pad_to: int | None, holes: bool
) -> None:
    depth = scene(*shape, holes=holes).to(device)
    before = depth.clone()
    got, expected = normalize_depth(depth, pad_to=pad_to), without_kernels(depth, pad_to)
    assert got.shape == expected.shape
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert got[:, :, shape[1] :].count_nonzero() == got[:, :, :, shape[2] :].count_nonzero() == 0
    assert torch.equal(depth.nan_to_num(7.0), before.nan_to_num(7.0))


@pytest.mark.parametrize("value", [0.0, 3.0, 1e-6, 100.0, 1e6, -2.0, math.nan, math.inf])
def test_flat_images_and_images_of_holes(device: torch.device, value: float) -> None:
    depth = torch.full((2, 9, 9), value, device=device)
    depth[1] = scene(1, 9, 9)[0]
    got, expected = normalize_depth(depth), without_kernels(depth)
    assert (got - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert got[0, 2].unique().numel() == 1


def test_the_logarithm_of_a_small_depth_is_exact(device: torch.device) -> None:
    """The third channel of a narrow range would show 1 + d being rounded."""
    depth = torch.linspace(1e-4, 2e-4, 99, device=device).view(1, 9, 11)
    log = depth.double().log1p()
    scaled = (log - log.min()) / (log.max() - log.min())
    expected = (scaled - 0.492858) / 0.297177
    assert (normalize_depth(depth)[:, 2] - expected).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_result_is_rounded_only_at_the_end(device: torch.device, dtype: torch.dtype) -> None:
    depth = scene(2, 24, 40).to(device)
    got = normalize_depth(depth, pad_to=32, dtype=dtype)
    assert got.dtype == dtype
    exact = normalize_depth(depth, pad_to=32)
    torch.testing.assert_close(got.float(), exact, rtol=rounding(dtype), atol=1e-7)


def test_any_strides(device: torch.device) -> None:
    depth = scene(2, 24, 40).to(device)
    assert torch.equal(normalize_depth(depth.mT).mT, normalize_depth(depth))
    assert torch.equal(normalize_depth(depth[:, ::2, 3:]), normalize_depth(depth[:, ::2, 3:].contiguous()))
