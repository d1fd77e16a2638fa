"""What holds for the package as a whole."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from defm_rl import cli

ROOT = Path(__file__).parent.parent


def test_importing_the_library_imports_nothing_that_it_can_do_without():
    others = [
        "numpy",
        "torch",
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


def test_looking_at_an_encoder_imports_no_compiler():
    """It takes seconds, at the start of every training."""
    code = (
        "import sys, torch; from defm_rl.encoders.pooling import make_pool; "
        "from defm_rl.encoders.zoo import blank_encoder; torch.set_default_device('meta'); "
        "[blank_encoder(name) for name in ('defm_resnet18', 'defm_vit_s14')]; make_pool('grid', 8, (6, 12), (2, 4)); "
        "print({'torch._dynamo', 'sympy'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_the_public_names_are_there():
    import defm_rl

    assert sorted(defm_rl.__all__) == [
        "DepthEncoder",
        "check_env",
        "list_encoders",
        "load_encoder",
        "normalize_depth",
    ]
    assert all(hasattr(defm_rl, name) for name in defm_rl.__all__)
    assert set(defm_rl.__all__) <= set(dir(defm_rl))
    with pytest.raises(AttributeError, match="DepthEncodr"):
        _ = defm_rl.DepthEncodr


def test_imports_run_one_way():
    command = shutil.which("lint-imports", path=str(Path(sys.executable).parent))
    if command is None:
        pytest.skip("import-linter is not installed")
    result = subprocess.run([command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def output(*command):
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def tracked_files(*patterns):
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is not a git checkout")
    return {ROOT / name for name in output("git", "ls-files", *patterns) if (ROOT / name).is_file()}


def test_every_file_is_linted():
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent))
    if ruff is None:
        pytest.skip("ruff is not installed")
    linted = {Path(name) for name in output(ruff, "check", "--show-files", ".")}
    assert tracked_files("*.py") - linted == set()


def test_a_wheel_holds_every_file_of_the_package_and_nothing_else(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    tracked = {str(path.relative_to(ROOT)) for path in tracked_files("defm_rl", "hydra_plugins")}
    source = tmp_path / "source"  # building leaves folders behind
    for name in (*tracked, "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    (source / "tests").mkdir()
    (source / "tests" / "__init__.py").touch()
    output(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == tracked


def test_the_citation_names_this_version():
    yaml = pytest.importorskip("yaml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["preferred-citation"]["authors"][0]["family-names"] == "Patel"


def test_bug_reports_are_asked_for_commands_that_there_are():
    yaml = pytest.importorskip("yaml")
    form = yaml.safe_load((ROOT / ".github" / "ISSUE_TEMPLATE" / "bug.yml").read_text())
    asked = {field["id"] for field in form["body"]}
    assert {"doctor", "check-env"} <= asked & cli._COMMANDS.keys()


def test_the_top_level_shows_the_three_axes():
    for name in ("encoders", "envs", "experiments"):
        assert (ROOT / name).resolve() == ROOT / "defm_rl" / name


def test_a_half_made_virtual_environment_is_made_anew_and_the_missing_package_is_named(tmp_path):
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    python = tmp_path / "python-without-ensurepip"
    python.write_text(
        "#!/bin/sh\n"
        '[ "$2" = venv ] || exit 0\n'
        'mkdir -p "$3/bin"\n'
        "printf '#!/bin/sh\\nexit 1\\n' > \"$3/bin/python\"\n"
        'chmod +x "$3/bin/python"\n'
        "exit 1\n"
    )
    python.chmod(0o755)
    for _ in range(2):
        command = ["make", "venv", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}"]
        made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
        assert made.returncode != 0
        assert "apt install python3-venv" in made.stderr
    assert (tmp_path / "venv" / "bin" / "python").exists()
