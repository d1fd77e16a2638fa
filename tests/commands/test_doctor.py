"""`defm-rl doctor`: says what is there and what is not, and fails only where something needed is broken."""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hub_server import HubServer
from huggingface_hub import constants

from defm_rl import DepthEncoder, cli
from defm_rl.commands import doctor
from defm_rl.commands.doctor import Status

OTHERS = (
    "gymnasium",
    "mujoco",
    "stable_baselines3",
    "rsl_rl",
    "hydra",
    "matplotlib",
    "scipy",
    "onnx",
    "triton",
)


def found(check: object) -> dict[str, tuple[Status, str]]:
    return {finding.name: (finding.status, finding.text) for finding in check()}  # type: ignore[operator]


@pytest.mark.slow
def test_the_bare_library_is_enough() -> None:
    script = (
        "import sys\n"
        f"for name in {OTHERS}:\n"
        "    sys.modules[name] = None\n"
        "from defm_rl import cli\n"
        "sys.exit(cli.main(['doctor']))\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = {line[8:].split()[0]: line for line in done.stdout.splitlines() if line[:7].strip()}
    assert lines["torch"].split() == ["ok", "torch", torch.__version__]
    assert "pip install 'defm-rl[envs]'" in lines["rendering"]
    assert lines["rendering"].startswith("note ")
    assert lines["Hub"].endswith("is not asked: HF_HUB_OFFLINE is set")
    assert lines["self-test"].startswith("ok ")
    assert "features and gradients are right" in lines["self-test"]
    assert done.stdout.endswith("\nAll that is needed works.\n")


def test_something_broken_is_the_exit_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "rendering", lambda: iter(()))
    monkeypatch.setattr(doctor, "hub", lambda: iter(()))
    monkeypatch.setattr(DepthEncoder, "encode", lambda self, depth: torch.zeros(len(depth), 512))
    assert cli.main(["doctor"]) == 1
    output = capsys.readouterr().out
    assert "BROKEN  self-test        RuntimeError: features on cpu are off by 1 of the largest" in output
    assert output.endswith("\nBroken: self-test.\n")


def test_requirements_that_are_not_met(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        "torch>=99",
        "no-such-package",
        "numpy>=1.26",
        'no-such-extra>=2; extra == "sb3"',
        'torch>=99; extra == "sb3"',
        'defm-rl[sb3]; extra == "experiments"',
        'numpy; extra == "envs"',
        'elsewhere; sys_platform == "plan9" and extra == "envs"',
    ]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: lines)
    core = found(doctor.versions)
    assert core["torch"] == (Status.BROKEN, f"{torch.__version__} is here, not >=99: pip install 'torch>=99'")
    assert core["no-such-package"] == (Status.BROKEN, "is missing: pip install 'no-such-package'")
    assert core["numpy"][0] is Status.OK
    optional = found(doctor.extras)
    what = f"lacks no-such-extra, torch ({torch.__version__} is here, not >=99)"
    assert optional["[sb3]"] == (Status.NOTE, f"{what}: pip install 'defm-rl[sb3]'")
    assert optional["[experiments]"] == (Status.NOTE, f"{what}: pip install 'defm-rl[experiments]'")
    assert optional["[envs]"] == (Status.OK, "whole")
    assert not {"[dev]", "[all]"} & optional.keys()


def test_a_folder_that_is_imported_but_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_DISTRIBUTION", "no-such-distribution")
    status, text = found(doctor.versions)["no-such-distribution"]
    assert status is Status.BROKEN
    assert "pip install -e ." in text
    assert not found(doctor.extras)


def test_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    status, text = found(doctor.rendering)["rendering"]
    assert (status, text) == (Status.OK, "by OpenGL (EGL)") or (status is Status.NOTE and "apt install libegl1" in text)
    rendering = doctor._RENDERING
    monkeypatch.setattr(doctor, "_RENDERING", f"import sys\nassert sys.argv[1] == 'rays', 'no EGL'\n{rendering}")
    status, text = found(doctor.rendering)["rendering"]
    assert status is Status.NOTE
    assert text == "by rays, which is several times slower than EGL: AssertionError: no EGL"
    monkeypatch.setattr(doctor, "_RENDERING", "import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)")
    status, text = found(doctor.rendering)["rendering"]
    assert status is Status.BROKEN
    assert "its process was ended by signal 11" in text


class TestHub:
    @pytest.fixture(autouse=True)
    def empty_cache(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    @staticmethod
    def point_to(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")

    def test_it_is_asked_without_being_counted(self, monkeypatch: pytest.MonkeyPatch) -> None:
        files = {"defm_resnet18.pth": b"weights", "config.json": b"{}"}
        with HubServer("leggedrobotics/defm", files) as server:
            self.point_to(server.url, monkeypatch)
            assert found(doctor.hub)["Hub"] == (Status.OK, f"{server.url} has leggedrobotics/defm")
            assert server.requests
            assert not any("config.json" in request for request in server.requests)

    def test_no_network_is_a_note(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        self.point_to("http://127.0.0.1:9", monkeypatch)  # the discard port: nobody listens
        findings = found(doctor.hub)
        assert findings["cache"] == (Status.OK, f"0 of 12 weights in {tmp_path / 'hub'}")
        assert findings["Hub"][0] is Status.NOTE
        assert "weights='random'" in findings["Hub"][1]


def test_it_takes_no_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "now"]) == 2
    assert "takes no arguments, got now" in capsys.readouterr().err
    assert cli.main(["doctor", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: defm-rl doctor")
