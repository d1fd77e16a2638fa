"""Isaac Lab's experiment where Isaac Lab is not installed: one line says what to do. Where it is: tests/isaaclab."""

import pytest

from defm_rl.commands import gap, train
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.tasks import Ability, isaaclab, make_task


@pytest.mark.skipif(isaaclab.installed(), reason="Isaac Lab is installed")
@pytest.mark.parametrize("encoder", ["blind", "resnet18"])
def test_without_isaac_lab_one_line_says_what_to_install(tmp_path, monkeypatch, capsys, encoder):
    monkeypatch.chdir(tmp_path)
    assert train.main(["experiment=isaaclab_navigation", f"encoder={encoder}", "hydra.run.dir=run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install isaaclab==" in line
    assert not (tmp_path / "run" / "overrides.txt").exists()  # no run, that could be resumed, is begun


def test_what_only_mujoco_tasks_can_do_is_refused(capsys):
    task = make_task(to_config(compose_config(["experiment=isaaclab_navigation"])).env)
    assert task.sensor == "ideal"
    for ability in Ability:
        with pytest.raises(ConfigError, match="is a task of Isaac Lab"):
            task.require(ability)
    with pytest.raises(ConfigError, match="is a task of Isaac Lab"):
        task.make(["state"], sensor="stereo")
    assert gap.main(["env=isaaclab_navigation", "encoder.weights=random", "frames=16"]) == 2
    assert "is a task of Isaac Lab" in capsys.readouterr().err
