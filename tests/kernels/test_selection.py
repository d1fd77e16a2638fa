"""When the kernels are used, and what happens where they fail; without Triton."""

import logging
import sys
from typing import Any, NoReturn

import pytest
import torch
from torch import Tensor

from defm_rl import kernels
from defm_rl.depth import normalize_depth
from defm_rl.encoders.architectures import build_network
from defm_rl.encoders.layers import GroupNormAct


@pytest.fixture
def kernels_for_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the CPU were a device that kernels serve."""
    monkeypatch.setattr(kernels, "device_types", {"cpu"})
    monkeypatch.setattr(kernels, "_has_triton", lambda: True)


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("a kernel was used")


class TestWhatIsServed:
    def test_nothing_on_the_cpu(self) -> None:
        assert not kernels.serves(torch.ones(1))

    @pytest.mark.usefixtures("kernels_for_cpu")
    def test_three_dtypes(self) -> None:
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            assert kernels.serves(torch.ones(1, dtype=dtype))
            assert kernels.serves(torch.ones(1), dtype)
        assert not kernels.serves(torch.ones(1, dtype=torch.float64))
        assert not kernels.serves(torch.ones(1), torch.float64)
        assert not kernels.serves(torch.ones(0))

    def test_nothing_without_triton(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels, "device_types", {"cpu"})
        monkeypatch.setattr(kernels, "_has_triton", lambda: False)
        assert not kernels.serves(torch.ones(1))

    @pytest.mark.usefixtures("kernels_for_cpu")
    def test_depth_with_gradients_or_a_resize_is_pytorchs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels, "normalize_depth", refuse)
        depth = torch.rand(1, 16, 16)
        normalize_depth(depth, 8)
        normalize_depth(depth.double(), dtype=torch.float64)
        normalize_depth(depth.requires_grad_())
        with torch.no_grad(), pytest.raises(AssertionError, match="a kernel was used"):
            normalize_depth(depth)


@pytest.mark.usefixtures("kernels_for_cpu")
class TestRecordedGraphs:
    """They hold PyTorch's operations."""

    @pytest.fixture(autouse=True)
    def no_kernels(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(kernels, "group_norm_act", refuse)
        monkeypatch.setattr(kernels, "normalize_depth", refuse)

    def test_kernels_would_be_used_otherwise(self) -> None:
        with pytest.raises(AssertionError, match="a kernel was used"):
            GroupNormAct(8, "relu")(torch.ones(1, 8, 2, 2))

    @pytest.mark.parametrize("record", ["trace", "export", "compile"])
    def test_no_kernel_is_recorded(self, record: str) -> None:
        class Encode(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = build_network("defm_resnet18").eval()

            def forward(self, depth: Tensor) -> Tensor:
                features: Tensor = self.net(normalize_depth(depth, pad_to=32), features=("P3",), bifpn=False).maps["P3"]
                return features

        encode, depth = Encode(), torch.rand(1, 32, 32)
        with torch.no_grad():
            if record == "trace":
                torch.jit.trace(encode, depth, check_trace=False)
            elif record == "export":
                torch.export.export(encode, (depth,))
            else:
                torch.compile(encode, fullgraph=True, backend="eager")(depth)


@pytest.mark.usefixtures("kernels_for_cpu")
class TestFailure:
    """PyTorch's operations take over, with one warning."""

    def test_normalization_goes_on(self, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
        norm, x, depth = GroupNormAct(8, "silu"), torch.randn(2, 8, 3, 3), torch.rand(1, 4, 4)
        with monkeypatch.context() as without:
            without.setattr(kernels, "device_types", set())
            expected, channels = norm(x), normalize_depth(depth)
        monkeypatch.setitem(sys.modules, "triton", None)  # importing it now fails
        monkeypatch.delitem(sys.modules, "defm_rl.kernels.group_norm", raising=False)
        with caplog.at_level(logging.WARNING):
            assert torch.equal(norm(x), expected)
            assert torch.equal(norm(x), expected)
            assert torch.equal(normalize_depth(depth), channels)
        assert len(caplog.records) == 1
        assert "PyTorch's operations take their place" in caplog.text

    def test_too_little_memory_is_no_failure_of_a_kernel(self) -> None:
        def fused() -> NoReturn:
            raise torch.OutOfMemoryError

        with pytest.raises(torch.OutOfMemoryError):
            kernels.attempt(fused, lambda: None)
        assert kernels.device_types
