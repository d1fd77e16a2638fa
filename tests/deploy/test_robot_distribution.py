"""What runs on the robot needs NumPy and ONNX Runtime, and nothing else."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import tiny

ROOT = Path(__file__).parent.parent.parent
ACT = f"""
import sys
import numpy as np
from defm_rl.deploy import Camera, Policy
policy = Policy(sys.argv[1])
print(policy.act(depth=np.full(({tiny.HEIGHT}, {tiny.WIDTH}), 2.0, np.float32), state=np.zeros(2)))
"""


def test_acting_imports_nothing_else(file):
    code = ACT + (
        "\nallowed = {'defm_rl', 'numpy', 'onnxruntime', 'flatbuffers', 'google', 'packaging'}"
        "\nfiles = {name.partition('.')[0]: str(getattr(m, '__file__', '')) for name, m in sys.modules.items()}"
        "\nothers = {name for name in files if 'site-packages' in files[name] and not name.startswith('_')} - allowed"
        "\nassert not others, others"
        "\nassert not {'torch', 'yaml', 'onnx'} & set(sys.modules)"
        "\nassert {n for n in sys.modules if n.startswith('defm_rl')} <= {'defm_rl', 'defm_rl.deploy'} | "
        "{n for n in sys.modules if n.startswith('defm_rl.deploy.runtime')}"
    )
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[2. 2.]"


def test_without_onnx_runtime_it_says_what_to_install(file):
    code = "import sys; sys.modules['onnxruntime'] = None" + ACT
    done = subprocess.run([sys.executable, "-c", code, file], capture_output=True, text=True, check=False)
    assert "pip install onnxruntime" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("way", [["--no-deps", "."], ["./packaging/robot"]], ids=["no-deps", "distribution"])
def test_an_environment_that_has_nothing_else(way, file, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments, cwd=ROOT):
        return subprocess.run(
            [python, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )

    fetched = run("-m", "pip", "install", "numpy", "onnxruntime")
    if fetched.returncode:
        pytest.skip(f"packages cannot be fetched: {fetched.stderr[-200:]}")
    installed = run("-m", "pip", "install", *way)
    assert installed.returncode == 0, installed.stderr
    assert run("-c", "import torch").returncode == 1
    done = run("-c", ACT, file, cwd=tmp_path)
    assert done.stdout.strip() == "[2. 2.]", done.stderr


@pytest.mark.slow
def test_openvino_runs_it_where_its_onnx_runtime_is_installed(file, tmp_path):
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    fetched = subprocess.run(
        [python, "-m", "pip", "install", "numpy", "onnxruntime-openvino"], capture_output=True, text=True, check=False
    )
    if fetched.returncode:
        pytest.skip(f"packages cannot be fetched: {fetched.stderr[-200:]}")
    code = ACT.replace("Policy(sys.argv[1])", "Policy(sys.argv[1], providers=['OpenVINOExecutionProvider'])")
    code += "\nprint(policy._session.get_providers()[0])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([python, "-c", code, file], capture_output=True, text=True, env=environment, check=False)
    assert done.stdout.split("\n")[:2] == ["[2. 2.]", "OpenVINOExecutionProvider"], done.stderr
