"""What the cases of the kernels share; `test_kernels.py` runs them."""

import os

import pytest
import torch

from defm_rl import kernels

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


def rounding(dtype: torch.dtype) -> float:
    """Relative error of a rounding; the interpreter cuts bfloat16 off, where a GPU rounds it."""
    return torch.finfo(dtype).eps * (1.01 if INTERPRETED and dtype == torch.bfloat16 else 0.51)


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """A device that the kernels serve: the CPU under the interpreter."""
    name = "cpu" if INTERPRETED else "cuda"
    monkeypatch.setattr(kernels, "device_types", {name})
    return torch.device(name)


@pytest.fixture
def no_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that fails is an error."""
    monkeypatch.setattr(kernels, "attempt", lambda fused, _: fused())
