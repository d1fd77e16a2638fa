"""The kernels against PyTorch and float64: under Triton's interpreter, compiled without a GPU, and on CUDA where it is.

Each way is a process of its own: Triton decides between interpreter and compiler when it is imported.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
WAYS = {
    "interpreter": ("group_norm_cases.py", "depth_cases.py", "encoder_cases.py"),
    "compiler": ("compiler_cases.py",),
    "cuda": ("group_norm_cases.py", "depth_cases.py", "encoder_cases.py"),
}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way == "cuda" else pytest.mark.slow) for way in WAYS])
@pytest.mark.parametrize("cases", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_kernels(way: str, cases: str) -> None:
    if way == "compiler" and cases == "slow":
        pytest.skip("all of its cases are quick")
    if way == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    environment = {**os.environ, "TRITON_INTERPRET": "1" if way == "interpreter" else "0"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", cases, *WAYS[way]]
    result = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
