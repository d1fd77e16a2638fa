"""Group normalization with residual and activation, against PyTorch's in float64."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from composed import ACTIVATIONS, expected_of
from conftest import rounding
from torch import Tensor

from defm_rl import kernels
from defm_rl.encoders.layers import GroupNormAct, group_norm_act
from defm_rl.kernels import group_norm as module

pytestmark = pytest.mark.usefixtures("no_fallback")

LAYOUTS = (torch.contiguous_format, torch.channels_last)
# B, C, H, W, groups. Programs are slow to interpret: few groups.
SHAPES = {
    "group_of_three": (1, 6, 5, 7, 2),
    "group_of_thirteen": (1, 26, 6, 6, 2),
    "group_of_twenty_six": (1, 52, 3, 5, 2),
    "group_of_fifty_five": (1, 110, 2, 3, 2),
    "one_channel_each": (1, 8, 4, 4, 8),
    "one_pixel": (3, 24, 1, 1, 2),
    "one_group": (2, 6, 3, 3, 1),
    "one_tile": (1, 2, 32, 64, 2),
    "one_pixel_more_than_a_tile": (1, 2, 1, 2049, 2),
    "more_channels_than_slots": (1, 40, 40, 30, 1),
    "shares": (1, 4, 128, 130, 2),
}
# All activations with and without residual where it is quick; one after the other elsewhere.
CASES = [
    *product(["group_of_three"], LAYOUTS, ACTIVATIONS, [False, True]),
    *(
        (shape, layout, activation, residual)
        for shape, (activation, residual) in zip(
            list(SHAPES)[1:], [("relu", True), ("silu", False), ("none", True), ("relu", False)] * 3, strict=False
        )
        for layout in LAYOUTS
    ),
]


def inputs(
    shape: tuple[int, int, int, int, int],
    device: torch.device,
    layout: torch.memory_format = torch.contiguous_format,
    residual: bool = True,
    dtype: torch.dtype = torch.float32,
) -> list[Tensor | None]:
    """x, weight, bias and residual, all with gradients."""
    generator = torch.Generator().manual_seed(0)
    *size, _ = shape
    images = [torch.randn(size, generator=generator) for _ in range(2)]
    channels = [torch.randn(size[1], generator=generator) for _ in range(2)]
    x, r = ((3 * i + 2).to(device, dtype).contiguous(memory_format=layout).requires_grad_() for i in images)
    weight, bias = (c.to(device, dtype).requires_grad_() for c in channels)
    return [x, weight, bias, r if residual else None]


def doubled(tensors: list[Tensor | None]) -> list[Tensor | None]:
    return [None if t is None else t.detach().double().requires_grad_() for t in tensors]


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Within a tolerance relative to the largest value."""
    assert (got - expected).abs().max() <= tolerance * expected.abs().max().clamp(min=1e-3)


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("shape", "layout", "activation", "residual"), CASES)
def test_result_and_gradients(
    device: torch.device, shape: str, layout: torch.memory_format, activation: str, residual: bool
) -> None:
    groups = SHAPES[shape][-1]
    x, weight, bias, r = tensors = inputs(SHAPES[shape], device, layout, residual)
    y = group_norm_act(x, groups, weight, bias, 1e-5, activation, r)
    assert y.is_contiguous(memory_format=layout)

    exact = doubled(tensors)
    expected = expected_of(exact[0], groups, exact[1], exact[2], activation, exact[3])
    assert_close(y, expected, 2e-6)
    gradient = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(device)
    y.backward(gradient)
    expected.backward(gradient.double())
    for tensor, twin in zip(tensors, exact, strict=True):
        if tensor is not None:
            assert_close(tensor.grad, twin.grad, 5e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_halves_are_rounded_only_at_the_end(
    device: torch.device, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    shape = (1, 6, 5, 7, 2)
    x, weight, bias, residual = tensors = inputs(shape, device, layout, dtype=dtype)
    y = group_norm_act(x, 2, weight, bias, 1e-5, "silu", residual)
    exact = doubled(tensors)
    expected = expected_of(exact[0], 2, exact[1], exact[2], "silu", exact[3])
    assert y.dtype == dtype
    # Half a unit in the last place, and what float32 adds to it.
    torch.testing.assert_close(y.double(), expected, rtol=rounding(dtype), atol=1e-5)
    y.sum().backward()
    expected.sum().backward()
    for tensor, twin in zip(tensors, exact, strict=True):
        assert tensor.grad.dtype == dtype
        assert_close(tensor.grad, twin.grad, torch.finfo(dtype).eps)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_large_mean_costs_no_precision(device: torch.device, layout: torch.memory_format) -> None:
    """Only that of the mean's own rounding; the standard deviation from E[x^2] - E[x]^2 would have no correct digit."""
    x = (torch.randn(1, 4, 40, 70, generator=torch.Generator().manual_seed(0)) + 4096.0).to(device)
    x = x.contiguous(memory_format=layout)
    weight, bias = torch.ones(4, device=device), torch.zeros(4, device=device)
    y = group_norm_act(x, 2, weight, bias, 1e-5, "none")
    assert_close(y, F.group_norm(x.double(), 2, eps=1e-5), 5e-4)


def test_constant_groups_give_the_shift(device: torch.device) -> None:
    weight, bias = torch.ones(4, device=device), torch.arange(4.0, device=device)
    y = group_norm_act(torch.full((1, 4, 3, 3), 7.0, device=device), 2, weight, bias, 1e-5, "none")
    assert torch.equal(y, bias[None, :, None, None].expand_as(y))


def test_nan_is_not_hidden(device: torch.device) -> None:
    x = torch.randn(1, 4, 3, 3, device=device)
    x[0, 0, 0, 0] = torch.nan
    y = group_norm_act(x, 2, torch.ones(4, device=device), torch.zeros(4, device=device), 1e-5, "relu")
    assert y[0, :2].isnan().all()
    assert y[0, 2:].isfinite().all()


def test_other_strides(device: torch.device) -> None:
    """A slice, its residual channels last, and a gradient that is expanded."""
    x = torch.randn(2, 8, 6, 6, device=device)[:, :, 1:5, ::2].requires_grad_()
    residual = torch.randn(2, 8, 4, 3, device=device).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(8, device=device), torch.randn(8, device=device)
    y = group_norm_act(x, 2, weight, bias, 1e-5, "relu", residual)
    (got,) = torch.autograd.grad(y.sum(), x)
    exact = x.detach().double().requires_grad_()
    expected = expected_of(exact, 2, weight.double(), bias.double(), "relu", residual.double())
    assert_close(y, expected, 2e-6)
    assert_close(got, torch.autograd.grad(expected.sum(), exact)[0], 5e-6)


def test_frozen_weights_get_no_gradient_and_inputs_stay_as_they_were(device: torch.device) -> None:
    norm = GroupNormAct(8, "relu").to(device).requires_grad_(False)
    x = torch.randn(1, 8, 3, 3, device=device, requires_grad=True)
    residual = torch.randn(1, 8, 3, 3, device=device)
    before = x.detach().clone(), residual.clone()
    norm(x, residual).sum().backward()
    assert x.grad is not None
    assert norm.weight.grad is None
    assert torch.equal(x, before[0])
    assert torch.equal(residual, before[1])
    with torch.inference_mode():
        assert not norm(x).requires_grad


def test_autocast_gives_float32_as_pytorch_does(device: torch.device) -> None:
    x, weight, bias, _ = inputs((1, 4, 3, 3, 2), device)
    half = x.detach().to(torch.bfloat16).requires_grad_()
    with torch.autocast(device.type, torch.bfloat16):
        y = group_norm_act(half, 2, weight, bias, 1e-5, "silu")
    assert y.dtype == torch.float32
    y.sum().backward()
    assert half.grad.dtype == torch.bfloat16
    assert weight.grad.dtype == torch.float32


def test_backward_kernels_that_fail_are_replaced(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, residual = tensors = inputs((1, 8, 3, 3, 2), device)
    y = group_norm_act(x, 2, weight, bias, 1e-5, "silu", residual)
    assert type(y.grad_fn).__name__ == "FusedGroupNormActBackward"

    def broken(*_: object) -> None:
        raise RuntimeError("too little shared memory")

    monkeypatch.setattr(module, "_backward", broken)
    y.sum().backward()
    assert not kernels.device_types
    exact = doubled(tensors)
    expected_of(exact[0], 2, exact[1], exact[2], "silu", exact[3]).sum().backward()
    for tensor, twin in zip(tensors, exact, strict=True):
        assert_close(tensor.grad, twin.grad, 5e-6)
