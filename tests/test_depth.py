"""Depth normalization against the published preprocessing, and what it refuses."""

import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.depth import (
    DepthFormat,
    DepthScaleMonitor,
    ScaleWarning,
    _normalize_traceable,
    as_depth,
    normalize_channels,
    normalize_depth,
    normalize_inverse_depth,
    target_size,
)
from defm_rl.kernels import cpu_depth

REFERENCE = np.load(Path(__file__).parent / "reference" / "preprocess.npz")
TOLERANCE = 1e-5
MEAN, STD = (0.248880, 0.495620, 0.492858), (0.139357, 0.271314, 0.297177)


@pytest.fixture(autouse=True, params=["C++", "PyTorch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How depth on a processor is normalized: in one operation, or by PyTorch's where there is no compiler."""
    way: str = request.param
    if way == "PyTorch":
        monkeypatch.setattr(cpu_depth, "available", lambda: False)
    elif not cpu_depth.available():
        pytest.skip("no C++ compiler, or not Linux")
    return way


@pytest.fixture
def depth() -> Tensor:
    """Four images of 24x40 between 0.3 and 8 m, one hole in each."""
    images = torch.rand(4, 24, 40, generator=torch.Generator().manual_seed(0)) * 7.7 + 0.3
    images[:, 3, 5] = 0.0
    return images


def unstandardised(channels: Tensor) -> Tensor:
    """The three channels before the mean was taken off."""
    return channels * torch.tensor(STD).view(3, 1, 1) + torch.tensor(MEAN).view(3, 1, 1)


def worst(ours: Tensor, reference: np.ndarray) -> float:
    assert tuple(ours.shape) == reference.shape
    return float(np.abs(ours.numpy() - reference).max())


class TestPublishedPreprocessing:
    """Equal to defm 1.1.0; the depth holds NaN, infinity, holes and 250 m."""

    @pytest.mark.parametrize(
        ("tag", "size", "pad_to"),
        [
            ("64x64-None-False", None, None),
            ("90x120-(48, 48)-False", 48, None),
            ("90x120-(48, 48)-False", (48, 48), None),
            ("58x87-None-True", None, 32),
            ("40x64-(72, 100)-True", (72, 100), 32),
        ],
    )
    def test_batch(self, tag: str, size: int | tuple[int, int] | None, pad_to: int | None) -> None:
        channels = normalize_depth(REFERENCE[f"{tag}/depth"], size, pad_to)
        assert channels.dtype == torch.float32
        assert worst(channels[:, :, ::2, ::2], REFERENCE[f"{tag}/batch"]) <= TOLERANCE

    def test_single_image(self) -> None:
        channels = normalize_depth(REFERENCE["single/depth"], (75, 100), multiple_of=14)
        assert worst(channels, REFERENCE["single/image"]) <= TOLERANCE

    def test_flat_image(self) -> None:
        assert worst(normalize_depth(REFERENCE["flat/depth"]), REFERENCE["flat/batch"]) <= TOLERANCE

    def test_depth_anything(self) -> None:
        channels = normalize_inverse_depth(REFERENCE["dav2/inverse_depth"], (42, 56), multiple_of=14)
        assert worst(channels, REFERENCE["dav2/image"]) <= TOLERANCE


class TestChannels:
    def test_are_the_formulas(self) -> None:
        metres = [[0.0, 1.0, 9.0], [20.0, 99.0, 2.0]]
        c1, c2, c3 = unstandardised(normalize_depth(torch.tensor([metres, metres]).mT))[0]
        for x, row in enumerate(metres):
            for y, value in enumerate(row):
                assert c1[y, x].item() == pytest.approx(math.log1p(value) / math.log1p(100), abs=1e-6)
                assert c2[y, x].item() == pytest.approx(min(1.0, math.log1p(value) / math.log(10)), abs=1e-6)
                assert c3[y, x].item() == pytest.approx(math.log1p(value) / math.log1p(99), abs=1e-6)

    def test_are_relative_to_each_image_of_a_batch(self, depth: Tensor) -> None:
        together = normalize_depth(depth * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(4, 1, 1))
        for i in range(4):
            alone = normalize_depth(depth[i] * (i + 1.0))
            assert torch.allclose(alone[0], together[i], atol=1e-6)

    def test_keep_detail_in_nearly_flat_images(self) -> None:
        """A wall seen from 2 m: C3 divides by a span of 1e-3, and so would its rounding errors grow."""
        wall = 2.0 + 1e-3 * torch.rand(1, 32, 32, generator=torch.Generator().manual_seed(0))
        logs = wall.double().log1p()
        c3 = (logs - logs.min()) / (logs.max() - logs.min())
        # The bound is what float32 depth in, log1p and one subtraction allow.
        assert (unstandardised(normalize_depth(wall))[:, 2] - c3).abs().max() < 2e-3
        resized = torch.nn.functional.interpolate(c3[:, None], (16, 20), mode="bilinear", antialias=True)
        assert (unstandardised(normalize_depth(wall, (16, 20)))[:, 2] - resized[:, 0]).abs().max() < 2e-3

    @pytest.mark.parametrize("hole", [math.nan, math.inf, -math.inf, -1.0])
    @pytest.mark.parametrize("size", [None, (16, 16)])
    def test_treat_what_is_no_distance_as_a_hole(
        self, depth: Tensor, hole: float, size: tuple[int, int] | None
    ) -> None:
        other = depth.where(depth > 0, hole)
        assert torch.equal(normalize_depth(other, size), normalize_depth(depth, size))

    def test_clip_at_100_m(self, depth: Tensor) -> None:
        near, far = depth.clone(), depth.clone()
        near[:, 0, 0], far[:, 0, 0] = 100.0, 3e4
        assert torch.equal(normalize_depth(near), normalize_depth(far))

    @pytest.mark.filterwarnings("ignore::defm_rl.depth.ScaleWarning")  # of the thousand kilometres
    @pytest.mark.parametrize("value", [0.0, 1.5, 1e6, math.nan, 1e-42])
    @pytest.mark.parametrize("size", [None, (8, 8)])
    def test_are_finite_for_flat_images(self, value: float, size: tuple[int, int] | None) -> None:
        c3 = unstandardised(normalize_depth(torch.full((2, 16, 16), value), size))[:, 2]
        assert torch.allclose(c3, torch.zeros_like(c3), atol=1e-6)

    def test_are_finite_for_the_smallest_span(self) -> None:
        depth = torch.zeros(1, 8, 8)
        depth[0, 0, 0] = 1e-42
        assert normalize_depth(depth).isfinite().all()

    @pytest.mark.parametrize("farthest", [5.0, 20.0])  # within the second channel's range, and beyond
    @pytest.mark.parametrize("at_once", [1, 2**20])  # so that there are several parts, the last one smaller, and one
    def test_of_resized_depth_are_the_definition(
        self, monkeypatch: pytest.MonkeyPatch, way: str, farthest: float, at_once: int
    ) -> None:
        monkeypatch.setattr("defm_rl.depth._PIXELS_AT_ONCE", at_once)
        monkeypatch.setattr(cpu_depth, "_LEAST_PIXELS", at_once)
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
        depth = torch.rand(5, 40, 30, generator=torch.Generator().manual_seed(0)) * farthest
        depth[:, ::5, ::5] = 0.0
        expected = _normalize_traceable(depth.double(), (16, 24), 32)
        got = normalize_depth(depth, (16, 24), 32)
        assert got.shape == (len(depth), 3, 32, 32)
        assert (got - expected).abs().max() < 2e-6

    def test_depth_is_left_as_it_was(self, depth: Tensor) -> None:
        depth[0, 0, 0] = math.nan
        before = depth.clone()
        normalize_depth(depth)
        normalize_depth(depth, 16)
        assert torch.equal(depth.nan_to_num(7.0), before.nan_to_num(7.0))


class TestTypes:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_floating_metres(self, depth: Tensor, dtype: torch.dtype) -> None:
        rounded = depth.to(dtype)
        assert torch.allclose(normalize_depth(rounded), normalize_depth(rounded.float()), atol=1e-6)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_logarithm_is_never_of_a_half(self, depth: Tensor, dtype: torch.dtype) -> None:
        rounded = depth.to(dtype)
        channels = normalize_channels(rounded)
        assert channels.dtype == torch.float32
        assert torch.equal(channels, normalize_depth(rounded.float()))

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.int64, ">u2", np.float32, np.float64])
    def test_millimetres(self, depth: Tensor, dtype: str) -> None:
        millimetres = (depth * 1000).round()
        array = millimetres.numpy().astype(dtype)
        expected = normalize_depth(millimetres / 1000)
        assert torch.allclose(normalize_depth(array, unit="mm"), expected, atol=1e-5)
        if array.dtype.isnative:
            assert torch.allclose(normalize_depth(torch.from_numpy(array), unit="mm"), expected, atol=1e-5)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    @pytest.mark.parametrize("size", [None, 16])
    def test_the_result_is_rounded_only_at_the_end(self, depth: Tensor, dtype: torch.dtype, size: int | None) -> None:
        channels = normalize_depth(depth, size, dtype=dtype)
        assert channels.dtype == dtype
        assert torch.equal(channels, normalize_depth(depth, size).to(dtype))

    def test_arrays_that_pytorch_does_not_take(self, depth: Tensor) -> None:
        array = depth.numpy()
        flipped = array[:, ::-1, ::-1]
        assert torch.allclose(normalize_depth(flipped), normalize_depth(depth).flip(2, 3), atol=1e-6)
        frozen = array.copy()
        frozen.flags.writeable = False
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(normalize_depth(frozen), normalize_depth(depth))

    def test_memory_is_shared_where_nothing_changes(self, depth: Tensor) -> None:
        assert as_depth(depth[:, None]).data_ptr() == depth.data_ptr()

    def test_the_device_stays(self) -> None:
        assert normalize_depth(torch.ones(1, 32, 32, device="meta"), 16).device.type == "meta"


class TestShapes:
    def test_every_layout_is_the_same_image(self, depth: Tensor) -> None:
        expected = normalize_depth(depth)
        assert expected.shape == (4, 3, 24, 40)
        assert torch.equal(normalize_depth(depth[:, None]), expected)
        assert torch.equal(normalize_depth(depth[..., None]), expected)
        for one in (depth[1], depth[1, ..., None], depth[1:2], depth[1].numpy()[..., None]):
            assert torch.allclose(normalize_depth(one), expected[1:2], atol=1e-6)
        assert torch.equal(normalize_depth(depth.mT).mT, expected)

    def test_a_line_scan_is_an_image(self) -> None:
        assert normalize_depth(torch.ones(5, 1, 1, 64)).shape == (5, 3, 1, 64)

    def test_padding_is_zero_and_on_the_right_and_at_the_bottom(self, depth: Tensor) -> None:
        padded = normalize_depth(depth, pad_to=32)
        assert padded.shape == (4, 3, 32, 64)
        assert torch.equal(padded[:, :, :24, :40], normalize_depth(depth))
        assert padded[:, :, 24:].abs().max() == 0
        assert padded[:, :, :, 40:].abs().max() == 0
        assert normalize_depth(depth, (64, 32), pad_to=32).shape == (4, 3, 64, 32)

    def test_multiples_are_rounded_down(self) -> None:
        assert target_size(48, 96, multiple_of=14) == (42, 84)
        assert target_size(480, 640, 100, 14) == (98, 98)
        assert target_size(480, 640, (70, 140), 14) == (70, 140)
        assert normalize_depth(torch.ones(48, 96), multiple_of=14).shape == (1, 3, 42, 84)

    def test_resizing_to_the_same_size_is_no_resizing(self, depth: Tensor) -> None:
        assert torch.equal(normalize_depth(depth, (24, 40)), normalize_depth(depth))


class TestRefusals:
    @pytest.mark.parametrize(
        ("depth", "says"),
        [
            (torch.ones(7), "1 dimensions"),
            (torch.ones(1, 2, 3, 4, 5), "5 dimensions"),
            (torch.ones(2, 3, 8, 8), "one channel.*colour image"),
            (torch.ones(2, 8, 8, 3), "one channel.*colour image"),
            (torch.ones(2, 4, 8, 8), "one channel"),
            (torch.ones(8, 9, 3), r"8 images of 9x3.*depth\[\.\.\., 0\]"),
            (torch.ones(2, 1, 8, 1), "first or last"),
            (torch.ones(0, 8, 8), r"empty.*\(0, 8, 8\)"),
            (torch.ones(2, 0, 8), "empty"),
            (torch.ones(2, 1, 8, 0), "empty"),
            (torch.full((2, 8, 8), -1.5), "only negative.*-1.5.*flip the sign"),
        ],
    )
    def test_shapes_and_values(self, depth: Tensor, says: str) -> None:
        with pytest.raises(ValueError, match=f"(?s){says}"):
            normalize_depth(depth)

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.uint16, torch.int64])
    def test_integers_as_metres(self, dtype: torch.dtype) -> None:
        with pytest.raises(TypeError, match=re.escape(f"got {dtype}: pass unit='mm'")):
            normalize_depth(torch.ones(8, 8, dtype=dtype))

    @pytest.mark.parametrize(
        ("depth", "says"),
        [
            (torch.ones(8, 8, dtype=torch.uint8), "16 bits"),
            (np.ones((8, 8), np.int8), "16 bits"),
            (torch.ones(8, 8, dtype=torch.bool), "torch.bool"),
            (torch.ones(8, 8, dtype=torch.complex64), "complex64"),
            (np.ones((8, 8), bool), "array of bool"),
            (np.full((8, 8), "1"), "array of <U1"),
            ([[1.0, 2.0]], "got list"),
            (None, "got NoneType"),
        ],
    )
    def test_other_types(self, depth: object, says: str) -> None:
        with pytest.raises(TypeError, match=re.escape(says)):
            normalize_depth(depth, unit="mm")  # type: ignore[arg-type]

    def test_unknown_units(self) -> None:
        with pytest.raises(ValueError, match=r"unknown unit 'cm'.*'m' or 'mm'"):
            normalize_depth(torch.ones(8, 8), unit="cm")

    @pytest.mark.parametrize(
        ("arguments", "error", "says"),
        [
            ({"size": 0}, ValueError, "size must be at least 1, got 0"),
            ({"size": (8, -1)}, ValueError, "got -1"),
            ({"size": (8,)}, ValueError, r"\(height, width\), got \(8,\)"),
            ({"size": 8.0}, TypeError, "got 8.0"),
            ({"size": True}, TypeError, "got True"),
            ({"size": "8x8"}, TypeError, "got '8x8'"),
            ({"pad_to": 0}, ValueError, "pad_to must be at least 1"),
            ({"pad_to": 2.5}, TypeError, "pad_to must be an int"),
            ({"multiple_of": -14}, ValueError, "multiple_of must be at least 1"),
            ({"multiple_of": 14}, ValueError, r"8x8 cannot be rounded down.*at least \(14, 14\)"),
            ({"dtype": torch.uint8}, TypeError, "dtype must be a floating one.*torch.uint8"),
            ({"dtype": "float16"}, TypeError, "dtype must be a floating one.*'float16'"),
        ],
    )
    def test_arguments(self, arguments: dict[str, object], error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            normalize_depth(torch.ones(8, 8), **arguments)  # type: ignore[arg-type]

    def test_holes_are_no_reason_to_refuse(self) -> None:
        normalize_depth(torch.full((2, 8, 8), math.nan))
        normalize_depth(torch.zeros(2, 8, 8))
        mixed = torch.full((2, 16, 16), -1.0)
        mixed[1, 15, 15] = 1.0
        normalize_depth(mixed)


class TestInsideNetworks:
    """The traceable form gives what the fast one gives."""

    @pytest.mark.parametrize(
        "arguments", [{}, {"size": (32, 24)}, {"pad_to": 32}, {"size": (42, 90), "pad_to": 32}, {"multiple_of": 14}]
    )
    def test_gradients_flow(self, depth: Tensor, arguments: dict[str, object]) -> None:
        depth[0, 0, 0], depth[1, 0, 0] = math.nan, 200.0
        leaf = depth.clone().requires_grad_()
        channels = normalize_channels(leaf, **arguments)  # type: ignore[arg-type]
        assert (channels - normalize_depth(depth, **arguments)).abs().max() < 1e-6  # type: ignore[arg-type]
        channels.square().mean().backward()
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()
        assert leaf.grad.abs().max() > 0

    def test_no_graph_is_kept_under_no_grad(self, depth: Tensor) -> None:
        with torch.no_grad():
            assert not normalize_channels(depth.requires_grad_()).requires_grad

    def test_resizes_as_the_fast_one_does_to_1e_5(self) -> None:
        depth = torch.rand(2, 47, 63, generator=torch.Generator().manual_seed(0)) * 90
        for size in [(24, 20), (13, 63), (96, 128), (47, 31)]:
            traced = torch.jit.trace(lambda x, size=size: normalize_channels(x, size), depth, check_trace=False)
            assert (traced(depth) - normalize_channels(depth, size)).abs().max() < 1e-5

    @pytest.mark.parametrize("size", [None, (28, 42)])
    @pytest.mark.sweep(3)
    def test_exports_with_any_batch(self, depth: Tensor, size: tuple[int, int] | None) -> None:
        class Normalize(torch.nn.Module):
            def forward(self, depth: Tensor) -> Tensor:
                return normalize_depth(depth, size, 32)

        program = torch.export.export(Normalize(), (depth,), dynamic_shapes={"depth": {0: torch.export.Dim("batch")}})
        exported = program.module()
        for batch in (depth, depth[:2], depth.repeat(3, 1, 1)):
            assert (exported(batch) - normalize_depth(batch, size, 32)).abs().max() < 1e-6

    def test_compiles_without_graph_breaks(self, depth: Tensor) -> None:
        compiled = torch.compile(normalize_depth, fullgraph=True, backend="eager")
        assert (compiled(depth, (28, 42), 32) - normalize_depth(depth, (28, 42), 32)).abs().max() < 1e-6


class TestScaleMonitor:
    def test_warns_once_about_depth_that_looks_scaled(self) -> None:
        monitor = DepthScaleMonitor(frames=20)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.update(torch.rand(19, 8, 8))
            monitor.update(torch.zeros(50, 8, 8))  # says nothing about the scale
        with pytest.warns(ScaleWarning, match=r"no pixel exceeded 1\.0 in 20 depth images.*not in metres"):
            monitor.update(torch.rand(1, 8, 8))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.update(torch.rand(100, 8, 8))

    def test_is_silent_about_metres(self) -> None:
        monitor = DepthScaleMonitor(frames=20)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.update(torch.rand(10, 8, 8) * 3)
            monitor.update(torch.rand(100, 8, 8))
        assert monitor.done

    def test_infinities_are_no_distances(self) -> None:
        monitor = DepthScaleMonitor(frames=4)
        with pytest.warns(ScaleWarning):
            monitor.update(torch.rand(4, 8, 8).where(torch.eye(8) == 0, math.inf))

    def test_warns_of_depth_with_the_wrong_sign_once_it_is_not_a_single_frame(self) -> None:
        monitor = DepthScaleMonitor(frames=4)
        backwards = -5 * torch.rand(3, 8, 8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.update(backwards)
        with pytest.warns(ScaleWarning, match="flip the sign"):
            monitor.update(backwards)
        assert monitor.done

    def test_invalid_frames_among_others_are_no_wrong_sign(self) -> None:
        monitor = DepthScaleMonitor(frames=4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.update(torch.full((3, 8, 8), 0.5))
            monitor.update(torch.full((10, 8, 8), -1.0))


def messages(caught: list[warnings.WarningMessage]) -> list[str]:
    return [str(each.message) for each in caught if each.category is ScaleWarning]


class TestUnits:
    """Counts become metres, and what stands for no measurement becomes a hole."""

    @pytest.mark.parametrize("unit", ["mm", 1e-4, 2.5e-4, 1 / 5000, np.float32(1e-4)])
    @pytest.mark.parametrize("dtype", [np.uint16, ">u2", np.int32, np.float32, np.float64])
    def test_counts_are_metres(self, unit: str | float, dtype: str) -> None:
        per_count = 1e-3 if unit == "mm" else float(unit)
        counts = np.random.default_rng(0).integers(1000, 6000, (2, 24, 40))
        metres = as_depth(counts.astype(dtype), unit)
        assert metres.dtype == torch.float32
        np.testing.assert_allclose(metres.numpy(), counts * per_count, rtol=1e-6)

    def test_numbers_and_names_of_one_unit_are_equal(self) -> None:
        assert DepthFormat(1.0) == DepthFormat(1) == DepthFormat("m") == DepthFormat(max_depth_m=math.inf)
        assert DepthFormat(0.001, 5) == DepthFormat("mm", 5.0) != DepthFormat("mm")

    @pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.int64, np.uint64, ">u2", "<u4"])
    def test_an_integers_largest_value_is_a_hole(self, dtype: str) -> None:
        counts = np.full((4, 4), 1500, dtype)
        counts[0, 0] = np.iinfo(np.dtype(dtype).name).max
        metres = as_depth(counts, "mm")
        assert metres[0, 0, 0] == 0
        assert metres[0].flatten()[1:].tolist() == pytest.approx([1.5] * 15)

    def test_a_float_of_that_size_is_a_distance(self) -> None:
        assert as_depth(torch.tensor([[65535.0, 1500.0]]), "mm")[0, 0, 0] == pytest.approx(65.535)

    @pytest.mark.parametrize("size", [None, (12, 20)])
    def test_beyond_the_limit_is_a_hole_before_anything_else_is_made_of_it(
        self, depth: Tensor, size: tuple[int, int] | None
    ) -> None:
        holes = depth.where(depth <= 3.0, 0.0)
        assert 0.1 < (holes == 0).float().mean() < 0.9
        assert torch.equal(normalize_depth(depth, size, max_depth_m=3.0), normalize_depth(holes, size))
        counts = (depth * 10000).round().to(torch.int32)
        close = normalize_depth(counts, size, unit=1e-4, max_depth_m=3.0)
        assert torch.allclose(close, normalize_depth(holes, size), atol=1e-3)

    def test_the_limit_itself_is_seen(self) -> None:
        assert as_depth(np.array([[3000, 3001]], np.uint16), "mm", max_depth_m=3.0)[0, 0].tolist() == pytest.approx(
            [3.0, 0.0]
        )
        assert as_depth(torch.tensor([[math.nan, math.inf, 3.0]]), max_depth_m=3.0).tolist() == [[[0.0, 0.0, 3.0]]]

    @pytest.mark.parametrize("dtype", [torch.uint16, torch.int32, torch.float16, torch.float32])
    @pytest.mark.parametrize("unit", ["mm", 1e-4])
    def test_metres_become_the_counts_that_they_were_read_from(self, dtype: torch.dtype, unit: str | float) -> None:
        depth_format = DepthFormat(unit)
        counts = torch.arange(0, 2000, 8).to(dtype)
        torch.testing.assert_close(depth_format.counts(depth_format.metres(counts), dtype), counts)

    def test_what_is_too_far_for_a_type_becomes_its_last_distance_and_no_hole(self) -> None:
        for dtype in (torch.uint16, torch.int32):
            counts = DepthFormat(1e-4).counts(torch.tensor([1e6, -1.0]), dtype)
            assert DepthFormat(1e-4).metres(counts)[0] > 0
            assert counts[1].item() == 0

    @pytest.mark.parametrize(
        ("settings", "error", "says"),
        [
            ({"unit": "cm"}, ValueError, "unknown unit 'cm'.*'m' or 'mm'.*0.01 for centimetres"),
            ({"unit": 0}, ValueError, "is 0 m.*0.0001"),
            ({"unit": -1e-3}, ValueError, "is -0.001 m"),
            ({"unit": math.nan}, ValueError, "is nan m"),
            ({"unit": math.inf}, ValueError, "is inf m"),
            ({"unit": 5000}, ValueError, "pass 1/5000"),
            ({"unit": True}, TypeError, "got True.*'m' or 'mm'"),
            ({"unit": None}, TypeError, "got None"),
            ({"max_depth_m": 0}, ValueError, "positive, got 0: pass None"),
            ({"max_depth_m": -2.0}, ValueError, "positive, got -2"),
            ({"max_depth_m": math.nan}, ValueError, "positive, got nan"),
            ({"max_depth_m": False}, TypeError, "got False"),
            ({"max_depth_m": "5"}, TypeError, "got '5'"),
        ],
    )
    def test_what_is_no_unit_or_limit(self, settings: dict[str, object], error: type[Exception], says: str) -> None:
        with pytest.raises(error, match=says):
            normalize_depth(torch.ones(8, 8), **settings)  # type: ignore[arg-type]

    def test_eight_bits_need_a_number(self) -> None:
        centimetres = np.array([[150, 255]], np.uint8)
        assert as_depth(centimetres, 0.01).tolist() == [[[1.5, 0.0]]]
        with pytest.raises(TypeError, match="16 bits"):
            as_depth(centimetres, 0.001)

    def test_exports_with_a_unit_and_a_limit(self, depth: Tensor) -> None:
        class Normalize(torch.nn.Module):
            def forward(self, counts: Tensor) -> Tensor:
                return normalize_depth(counts, 16, unit=1e-4, max_depth_m=3.0)

        counts = (depth * 10000).round().to(torch.int32)
        counts[0, 0, 0] = torch.iinfo(torch.int32).max
        expected = Normalize()(counts)
        batch = {"counts": {0: torch.export.Dim("batch")}}
        exported = torch.export.export(Normalize(), (counts,), dynamic_shapes=batch).module()
        traced = torch.jit.trace(Normalize(), (counts,))
        for program in (exported, traced):
            assert torch.allclose(program(counts[:2]), expected[:2], atol=1e-6)

    @pytest.mark.parametrize(
        "changed",
        [
            lambda x: np.asfortranarray(x),
            lambda x: x[::-1, ::-1][::-1, ::-1],
            lambda x: np.repeat(x, 2, axis=2)[..., ::2],
            lambda x: x.astype(x.dtype.newbyteorder()),
            lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
            lambda x: np.ma.masked_array(x).data,
        ],
        ids=["fortran", "backwards", "strided", "byte order", "unaligned and read-only", "view"],
    )
    @pytest.mark.parametrize("dtype", [np.uint16, np.float32, np.float64])
    def test_any_array_of_numpy_is_taken(
        self, changed: Callable[[NDArray[np.generic]], NDArray[np.generic]], dtype: type[np.generic]
    ) -> None:
        array = np.random.default_rng(0).integers(500, 5000, (3, 24, 40)).astype(dtype)
        assert torch.equal(normalize_depth(changed(array), unit="mm"), normalize_depth(array, unit="mm"))


class TestMillimetresTakenForMetres:
    @pytest.mark.parametrize("shape", [(24, 40), (4, 24, 40)])
    def test_are_warned_of_at_the_line_that_passes_them(self, shape: tuple[int, ...]) -> None:
        with pytest.warns(ScaleWarning, match="nearer than 500 m.*millimetres.*unit='mm'") as caught:
            normalize_depth(torch.full(shape, 500.0).index_fill(-1, torch.tensor([0]), 0.0))
        assert caught[0].filename == __file__

    def test_are_warned_of_behind_a_limit_that_hides_them(self) -> None:
        with pytest.warns(ScaleWarning, match="millimetres"):
            normalize_depth(torch.full((24, 40), 500.0), max_depth_m=10.0)

    def test_metres_holes_and_a_far_sky_are_not(self) -> None:
        near = torch.full((2, 24, 40), 1e6)
        near[1, 23, 39] = 5.0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for depth in (near, torch.zeros(2, 24, 40), torch.full((24, 40), math.inf), torch.full((24, 40), 99.0)):
                normalize_depth(depth)
            normalize_depth(torch.full((24, 40), 500.0), unit="mm")

    def test_a_monitor_warns_once_after_many_frames_and_names_the_camera(self) -> None:
        monitor = DepthScaleMonitor(frames=8, camera="wrist")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor.update(torch.full((7, 8, 8), 800.0))
            assert not caught
            monitor.update(torch.full((4, 8, 8), 700.0))
            monitor.update(torch.full((20, 8, 8), 700.0))
        (said,) = messages(caught)
        assert "'wrist'" in said
        assert "nearer than 700 m" in said

    def test_a_monitor_is_silent_about_a_sky_that_ends(self) -> None:
        monitor = DepthScaleMonitor(frames=8)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            monitor.update(torch.full((7, 8, 8), 1e4))
            monitor.update(torch.full((7, 8, 8), 12.0))
        assert monitor.done

    def test_a_monitor_knows_the_unit(self) -> None:
        monitor = DepthScaleMonitor(frames=8, depth_format=DepthFormat("mm", 2.0))
        monitor.watch(torch.full((9, 8, 8), 5000, dtype=torch.int32))
        assert monitor.done
