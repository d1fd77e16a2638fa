"""The operations for processors, of every set of instructions, against float64."""

import contextlib
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from composed import ACTIVATIONS, expected_of
from processes import run
from torch import Tensor

from defm_rl import DepthEncoder
from defm_rl.kernels import cpu

# B, C, H, W, groups: channels that fill vectors and that do not, fewer images than threads, one pixel, one group.
SHAPES = [
    (3, 48, 7, 5, 16),
    (1, 104, 9, 9, 8),
    (5, 440, 2, 2, 8),
    (1, 6, 3, 3, 2),
    (2, 24, 1, 1, 8),
    (1, 33, 70, 41, 1),
]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def needs_compiler() -> None:
    if not cpu.available():
        pytest.skip("no C++ compiler, or not Linux")


@contextlib.contextmanager
def threads_set_to(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("threads", [1, 2])
def test_group_normalization(shape: tuple[int, ...], layout: torch.memory_format, threads: int) -> None:
    needs_compiler()
    *size, groups = shape
    with threads_set_to(threads):
        for activation, with_residual in product(ACTIVATIONS, [False, True]):
            x = torch.randn(size) + 1.0
            weight, bias = torch.randn(2, size[1])
            residual = torch.randn(size) if with_residual else None
            expected = expected_of(x.double(), groups, weight.double(), bias.double(), activation, residual)
            given = x.clone(memory_format=layout)
            out = cpu.group_norm_act_(given, groups, weight, bias, 1e-5, activation, residual)
            assert out.data_ptr() == given.data_ptr()
            torch.testing.assert_close(given.double(), expected, rtol=1e-5, atol=1e-5)


def test_a_mean_that_is_large_beside_the_deviation_costs_no_more_digits_than_in_pytorch() -> None:
    needs_compiler()
    x = (torch.randn(2, 32, 120, 160) * 0.02 + 20.0).contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(2, 32)
    exact = F.group_norm(x.double(), 8, weight.double(), bias.double(), 1e-5)
    pytorchs = (F.group_norm(x.contiguous(), 8, weight, bias, 1e-5) - exact).abs().max()
    ours = (cpu.group_norm_act_(x, 8, weight, bias, 1e-5, "none", None) - exact).abs().max()
    assert ours <= 2.0 * pytorchs


@pytest.mark.sweep(5)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_squeeze_and_excitation(shape: tuple[int, ...], activation: str) -> None:
    needs_compiler()
    *size, squeezed = shape
    channels = size[1]
    x = torch.randn(size).contiguous(memory_format=torch.channels_last)
    weight1, weight2 = torch.randn(channels, squeezed) / channels**0.5, torch.randn(squeezed, channels)
    bias1, bias2 = torch.randn(squeezed), torch.randn(channels)
    hidden = ACTIVATIONS[activation](x.double().mean((2, 3)) @ weight1.double() + bias1)
    expected = x.double() * (hidden @ weight2.double() + bias2).sigmoid()[:, :, None, None]
    cpu.squeeze_excite_(x, weight1, bias1, weight2, bias2, activation)
    torch.testing.assert_close(x.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.sweep(9)
@pytest.mark.parametrize(("width", "side"), [(1, 3), (1, 5), (8, 3), (16, 3), (24, 3), (12, 3), (8, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 6), (9, 15), (120, 128)], ids=str)
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_grouped_convolution(
    width: int, side: int, stride: int, size: tuple[int, int], layout: torch.memory_format
) -> None:
    needs_compiler()
    groups = 83 if width == 1 else 3
    x = torch.randn(2, groups * width, *size).contiguous(memory_format=layout)
    weight = torch.randn(groups * width, width, side, side) / (side * width**0.5)
    expected = F.conv2d(x.double(), weight.double(), None, stride, side // 2, 1, groups)
    out = cpu.grouped_conv(x, weight, cpu.grouped_weight(weight), stride)
    assert out.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.sweep(13)
@pytest.mark.parametrize("side", [1, 3, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (5, 9), (33, 20)], ids=str)
@pytest.mark.parametrize("channels", [(3, 64), (52, 40), (64, 17)], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("factors", [torch.float32, torch.bfloat16])
def test_convolution_as_a_product(
    side: int, stride: int, size: tuple[int, int], channels: tuple[int, int], threads: int, factors: torch.dtype
) -> None:
    needs_compiler()
    x, bias = torch.randn(3, channels[0], *size), torch.randn(channels[1])
    weight = torch.randn(channels[1], channels[0], side, side) / (side * channels[0] ** 0.5)
    with threads_set_to(threads):
        for layout, added in [(torch.channels_last, None), (torch.contiguous_format, bias)]:
            given, packed = x.contiguous(memory_format=layout), cpu.product_weight(weight, factors)
            out = cpu.product_conv(given, packed, added, channels[1], side, stride)
            assert out.is_contiguous(memory_format=torch.channels_last)
            assert_convolved(out, x.to(factors), weight.to(factors), added, stride)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf, 3e38, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 0.0])
def test_rounding_to_bfloat16_is_pytorchs(value: float) -> None:
    needs_compiler()
    x = torch.full((1, 28, 1, 1), value)  # vectors, and some that do not fill one
    packed = cpu.product_weight(torch.full((1, 28, 1, 1), 0.03125), torch.bfloat16)
    out = cpu.product_conv(x, packed, None, 1, 1, 1)
    torch.testing.assert_close(out[0, 0, 0, 0], 0.875 * torch.tensor(value).bfloat16().float(), equal_nan=True)


@pytest.mark.sweep(11)
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (2, 2), (2, 3), (5, 3), (3, 4), (7, 9), (32, 21)], ids=str)
@pytest.mark.parametrize("channels", [(32, 32), (64, 96), (160, 32)], ids=str)
@pytest.mark.parametrize("images", [1, 5, 41])  # fewer than are multiplied at once, and more than are in work together
@pytest.mark.parametrize("threads", [1, 2])
def test_3x3_convolution(size: tuple[int, int], channels: tuple[int, int], images: int, threads: int) -> None:
    needs_compiler()
    x, bias = torch.randn(images, channels[0], *size), torch.randn(channels[1])
    weight = torch.randn(channels[1], channels[0], 3, 3) / (3 * channels[0] ** 0.5)
    with threads_set_to(threads):
        for layout, added in [(torch.channels_last, None), (torch.contiguous_format, bias)]:
            out = conv3x3(x.contiguous(memory_format=layout), weight, added)
            assert out.is_contiguous(memory_format=torch.channels_last)
            assert_convolved(out, x, weight, added, 1)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("size", [(1, 7), (2, 2), (5, 3), (3, 4), (7, 9)], ids=str)
@pytest.mark.parametrize("images", [1, 41])
def test_3x3_convolution_of_bfloat16(size: tuple[int, int], images: int) -> None:
    needs_compiler()
    x, bias = torch.randn(images, 64, *size), torch.randn(96)
    weight = torch.randn(96, 64, 3, 3) / 24.0
    out = conv3x3(x, weight, bias, torch.bfloat16)
    if size in [(1, 7), (2, 2), (5, 3)]:  # directly
        assert_convolved(out, x.bfloat16(), weight.bfloat16(), bias, 1)
    else:
        expected = winograds_conv3x3(x, weight, torch.bfloat16) + bias.view(-1, 1, 1)
        torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
        exact = F.conv2d(x.double(), weight.double(), bias.double(), 1, 1)
        assert (out - exact).square().mean().sqrt() < 0.01


def winograds_conv3x3(x: Tensor, weight: Tensor, factors: torch.dtype) -> Tensor:
    """F(2x2, 3x3) by its matrices (Lavin & Gray 2015), with factors rounded and all else in float64."""
    of_inputs = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    of_weights = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
    of_outputs = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]], dtype=torch.float64)
    height, width = x.shape[2:]
    tiles = F.pad(x, (1, 1 + width % 2, 1, 1 + height % 2)).unfold(2, 4, 2).unfold(3, 4, 2)
    inputs = (of_inputs @ tiles @ of_inputs.t()).to(factors).double()
    weights = (of_weights @ weight.double() @ of_weights.t()).to(factors).double()
    products = torch.einsum("bcijhw,kchw->bkijhw", inputs, weights)
    outputs = of_outputs @ products @ of_outputs.t()
    return outputs.permute(0, 1, 2, 4, 3, 5).flatten(4, 5).flatten(2, 3)[:, :, :height, :width]


def test_a_convolution_after_winograd_is_closer_than_a_sum_in_order() -> None:
    needs_compiler()
    x, weight = torch.randn(1, 256, 12, 20), torch.randn(64, 256, 3, 3) / 48.0
    exact = F.conv2d(x.double(), weight.double(), None, 1, 1)
    in_order = torch.zeros(64, 12 * 20)
    for pixels, factors in zip(F.unfold(x, 3, padding=1)[0], weight.flatten(1).t(), strict=True):
        in_order += factors[:, None] * pixels
    error_in_order = (in_order.view_as(exact) - exact).square().mean().sqrt()
    error = (conv3x3(x, weight) - exact).square().mean().sqrt()
    assert error < error_in_order


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None = None, factors: torch.dtype = torch.float32) -> Tensor:
    return cpu.conv3x3(x, cpu.winograd_weight(weight, factors), cpu.product_weight(weight, factors), bias)


def assert_convolved(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, stride: int) -> None:
    exact = F.conv2d(x.double(), weight.double(), None if bias is None else bias.double(), stride, weight.shape[2] // 2)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("images", [4, 5])
@pytest.mark.parametrize("threads", [1, 2])
def test_grouped_convolution_of_more_images_than_stay_in_the_cache(images: int, threads: int) -> None:
    needs_compiler()
    x = torch.randn(images, 24, 33, 33)
    weight = torch.randn(24, 8, 3, 3) / 8.5
    with threads_set_to(threads):
        out = cpu.grouped_conv(x, weight, cpu.grouped_weight(weight), 2)
    exact = F.conv2d(x.double(), weight.double(), None, 2, 1, 1, 3)
    torch.testing.assert_close(out.double(), exact, rtol=1e-5, atol=1e-5)


def test_empty_batches_stay_empty() -> None:
    needs_compiler()
    x, ones, weight = torch.empty(0, 8, 3, 3), torch.ones(8), torch.ones(8, 8, 3, 3)
    assert cpu.group_norm_act_(x, 2, ones, ones, 1e-5, "relu", None).shape == x.shape
    assert cpu.squeeze_excite_(x, torch.ones(8, 2), ones[:2], torch.ones(2, 8), ones, "relu").shape == x.shape
    assert cpu.grouped_conv(x, weight, cpu.grouped_weight(weight), 2).shape == (0, 8, 2, 2)
    assert cpu.product_conv(x, cpu.product_weight(weight), None, 8, 3, 2).shape == (0, 8, 2, 2)
    x = torch.empty(2, 8, 0, 3)
    assert cpu.grouped_conv(x, weight, cpu.grouped_weight(weight), 2).shape == (2, 8, 0, 2)
    assert cpu.product_conv(x, cpu.product_weight(weight), ones, 8, 3, 2).shape == (2, 8, 0, 2)
    x, weight = torch.empty(0, 32, 3, 3), torch.ones(64, 32, 3, 3)
    assert conv3x3(x, weight).shape == (0, 64, 3, 3)


def test_what_does_not_fit_is_refused() -> None:
    needs_compiler()
    x, ones = torch.ones(1, 8, 2, 2), torch.ones(8)
    with pytest.raises(RuntimeError, match="3 groups, 8 weights, 8 biases for 8 channels"):
        cpu.group_norm_act_(x, 3, ones, ones, 1e-5, "none", None)
    with pytest.raises(RuntimeError, match="none, relu or silu; got gelu"):
        cpu.group_norm_act_(x, 2, ones, ones, 1e-5, "gelu", None)
    with pytest.raises(RuntimeError, match="shape must be that of x"):
        cpu.group_norm_act_(x, 2, ones, ones, 1e-5, "none", torch.ones(1, 8, 1, 1))
    weight = torch.ones(8, 4, 3, 3)
    with pytest.raises(RuntimeError, match=r"packed must be grouped_weight\(weight\)"):
        cpu.grouped_conv(x, weight, weight, 1)
    with pytest.raises(RuntimeError, match=r"weight must be \(16, width, side, side\)"):
        cpu.grouped_conv(torch.ones(1, 16, 2, 2), weight, weight, 1)
    with pytest.raises(RuntimeError, match=r"product_weight\(weight\) of a weight \(8, 8, 3, 3\)"):
        cpu.product_conv(x, weight, None, 8, 3, 1)
    with pytest.raises(RuntimeError, match="bias must have 8 numbers"):
        cpu.product_conv(x[:, :4], cpu.product_weight(weight), ones[:3], 8, 3, 1)
    with pytest.raises(RuntimeError, match=r"K and C multiples of 32; got \[8, 4, 3, 3\]"):
        cpu.winograd_weight(weight)
    with pytest.raises(RuntimeError, match=r"winograd_weight\(weight\) and product_weight\(weight\) for 8 channels"):
        conv3x3(x, torch.ones(32, 32, 3, 3))
    panel = cpu.winograd_weight(torch.ones(32, 32, 3, 3)).shape[3]
    with pytest.raises(RuntimeError, match="for 4 channels"):
        cpu.conv3x3(x[:, :4], torch.ones(16, 1, 4, panel, 1), cpu.product_weight(torch.ones(panel, 4, 3, 3)), None)
    with pytest.raises(RuntimeError, match="side must be odd and stride positive; got 2 and 1"):
        cpu.product_conv(x, weight, None, 8, 2, 1)
    with pytest.raises(RuntimeError, match="side must be odd and stride positive; got 3 and 0"):
        cpu.grouped_conv(x, weight, weight, 0)
    with pytest.raises(RuntimeError, match="groups must be positive"):
        cpu.group_norm_act_(x, 0, ones, ones, 1e-5, "none", None)
    with pytest.raises(RuntimeError, match="bias must have 32 numbers"):
        conv3x3(torch.ones(1, 32, 2, 2), torch.ones(32, 32, 3, 3), ones)
    with pytest.raises(RuntimeError, match="float32"):
        cpu.group_norm_act_(x.double(), 2, ones, ones, 1e-5, "none", None)


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("defm_regnet_y_400mf", {"grouped_conv", "product_conv", "squeeze_excite_"}),
        ("defm_efficientnet_b0", {"grouped_conv", "product_conv", "squeeze_excite_"}),
        ("defm_resnet18", {"product_conv", "conv3x3"}),
        ("defm_resnet50", {"product_conv", "conv3x3"}),
    ],
)
@pytest.mark.parametrize("features", ["global", "P3"])
@pytest.mark.sweep(3)
def test_encoders_use_them_and_give_the_same_features(name: str, operations: set[str], features: str) -> None:
    needs_compiler()
    depth = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 5.0
    encoder = DepthEncoder(name, weights="random", features=features)
    torch.testing.assert_close(encoder.encode(depth), encoder(depth), rtol=1e-4, atol=1e-4)
    assert encoder._runner is not None
    (graph,) = encoder._runner._graphs.values()  # type: ignore[attr-defined]
    kinds = {node.kind() for node in graph.graph.nodes()}
    assert kinds >= {f"defm_rl::{operation}" for operation in operations | {"group_norm_act_"}}
    assert "aten::group_norm" not in kinds


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_bytes_of_the_packed_weights_are_known_beforehand(precision: str) -> None:
    for name in ("defm_resnet18", "defm_regnet_y_400mf"):
        encoder = DepthEncoder(name, weights="random", precision=precision)
        net = encoder._net_for("cpu", encoder.net)
        copied = 0 if net is encoder.net else sum(buffer.nbytes for buffer in net.buffers())
        assert encoder.copied_bytes("cpu") == copied


@pytest.mark.slow
def test_encoders_multiply_bfloat16_where_the_processor_does() -> None:
    needs_compiler()
    if not cpu.multiplies_bfloat16():
        pytest.skip("no instructions for products of bfloat16")
    depth = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 5.0
    for name in ("defm_resnet18", "defm_regnet_y_400mf", "defm_efficientnet_b0"):
        encoder = DepthEncoder(name, weights="random", precision="bfloat16")
        features, exact = encoder.encode(depth), DepthEncoder(name, weights="random").encode(depth)
        assert features.dtype == torch.float32
        assert 1e-4 < (features - exact).norm() / exact.norm() < 0.03
        net = encoder._net_for("cpu", encoder.net)
        convolutions = [m for m in net.modules() if getattr(m, "cpu_kernel", None) in ("product", "3x3")]
        packed = [m.packed for m in convolutions if m.in_channels != 3]  # depth itself enters in float32
        assert {weight.dtype for weight in packed} == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_every_set_of_instructions(capability: str, tmp_path: Path) -> None:
    needs_compiler()
    tests = "test_group_normalization or test_squeeze_and_excitation or convolution or rounding"
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", __file__, "-k", tests]
    output = run(*command, ATEN_CPU_CAPABILITY=capability, XDG_CACHE_HOME=str(tmp_path))
    assert "skipped" not in output
    assert len(list(tmp_path.glob("defm_rl/cpu-*.so"))) == 1
