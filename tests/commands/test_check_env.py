"""`defm-rl check-env`: what is wrong with a task, what its parts take, and what it sees."""

import gymnasium as gym
import matplotlib.image
import numpy as np
import pytest
from their_tasks import WhichSide

from defm_rl.commands import check_env

THEIRS = ["env=gymnasium", "env.id=their_tasks:their/WhichSide-v0"]
SHORT = ["steps=8", "envs=2"]
ENCODER = ["encoder=regnet_y_400mf", "encoder.grid=[1,4]"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "camera", "blind"),
    [
        (THEIRS, "front", False),
        ([*THEIRS, "env.render_depth=true", "env.kwargs.image=false", "env.near=0.1", "env.far=20"], "depth", True),
        ([*THEIRS, "env.render_depth=depth", "env.kwargs.image=false"], "depth", True),
        (["env=navigation", "env.depth_size=[32,40]", "env.renderer=rays"], "depth", True),
    ],
    ids=["observed", "rendered", "by a method", "ours"],
)
@pytest.mark.sweep(2)
def test_a_task_without_fault_is_measured_and_drawn(task, camera, blind, here, caplog):
    assert check_env.main([*task, *ENCODER, *SHORT]) == 0
    assert "ERROR" not in caplog.text
    row = next(line.split() for line in caplog.text.splitlines() if line.startswith(f"{camera} "))
    assert row[2:4] == ["32", "40"]
    for part in ("environment, with depth", "normalization", "encoding of a frame, defm_regnet_y_400mf to P3"):
        assert part in caplog.text
    assert ("environment, without depth" in caplog.text) == blind
    assert matplotlib.image.imread(here / "check_env.png").std() > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["env.render_depth=true", "env.kwargs.image=false"], "env.near"),
        (["env.kwargs.depth_scale=1000"], "unit= is env.depth_unit="),
        (["env.kwargs.depth_scale=0"], "sees nothing"),
        (["env.near=0.1", "env.far=20"], "is no z-buffer"),
        (["env.success_key=won"], "none of won"),
    ],
)
@pytest.mark.sweep(2)
def test_what_is_wrong_is_an_error_and_says_what_to_set(overrides, said, caplog):
    assert check_env.main([*THEIRS, *SHORT, *overrides]) == 1
    assert "ERROR" in caplog.text
    assert said in caplog.text
    assert "encoding" not in caplog.text


def test_scaled_depth_is_a_warning_which_is_no_error(caplog):
    assert check_env.main([*THEIRS, *SHORT, *ENCODER, "env.kwargs.depth_scale=0.1"]) == 0
    assert "WARNING scale" in caplog.text


@pytest.mark.slow
def test_what_training_refuses_can_be_looked_at(caplog):
    class NoDepth(WhichSide):
        def _observed(self):
            observed = super()._observed()
            return {**observed, "front": np.full_like(observed["front"], np.nan)}

    gym.register("their/NoDepth-v0", entry_point=NoDepth)
    try:
        assert check_env.main([*THEIRS, *SHORT, *ENCODER, "env.id=their/NoDepth-v0"]) == 1
        assert "ERROR" in caplog.text
    finally:
        gym.registry.pop("their/NoDepth-v0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["env.id=their_tasks:their/WhichSade-v0"], "Did you mean"),
        (["env.id=broken_tasks:Task-v0"], "RuntimeError: no display"),
        (["env.near=3", "env.far=2"], "env.near, env.far"),
        (["env.render_depth=photograph"], "photograph: WhichSide has no such method"),
        (["env.render_depth=close"], "not an image"),
        (["step=5"], "Did you mean 'steps'"),
        (["steps=0"], "steps must be at least 1"),
        (["--config-dir", "nowhere"], "there is no such folder"),
    ],
)
def test_what_cannot_be_checked_says_why(arguments, said, here, monkeypatch, capsys):
    (here / "broken_tasks.py").write_text("raise RuntimeError('no display')")
    monkeypatch.syspath_prepend(here)
    assert check_env.main([*THEIRS, *SHORT, *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_task_without_depth_is_an_error(caplog):
    assert check_env.main(["env=gymnasium", "env.id=CartPole-v1", *SHORT]) == 1
    assert "ERROR" in caplog.text
