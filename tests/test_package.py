"""What holds for the package as a whole."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_importing_the_library_imports_nothing_that_it_can_do_without():
    others = [
        "torchvision",
        "timm",
        "gymnasium",
        "mujoco",
        "hydra",
        "matplotlib",
        "huggingface_hub",
        "stable_baselines3",
    ]
    code = f"import sys, defm_rl; print([name for name in {others} if name in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_public_names_are_there():
    import defm_rl

    assert sorted(defm_rl.__all__) == ["DepthEncoder", "list_encoders", "load_encoder", "normalize_depth"]
    assert all(hasattr(defm_rl, name) for name in defm_rl.__all__)


def test_imports_run_one_way():
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed")
    result = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_every_file_is_linted():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None or not (ROOT / ".git").exists():
        pytest.skip("ruff is not installed, or this is not a git checkout")

    def lines(*command):
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()

    linted = {Path(name) for name in lines(ruff, "check", "--show-files", ".")}
    tracked = {ROOT / name for name in lines("git", "ls-files", "*.py")}
    assert {path for path in tracked - linted if path.exists()} == set()


def test_the_top_level_shows_the_three_axes():
    for name in ("encoders", "envs", "experiments"):
        assert (ROOT / name).resolve() == ROOT / "defm_rl" / name
