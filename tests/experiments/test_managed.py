"""Experiments of Isaac Lab and mjlab where these are not installed: one line says what to do.

Where they are: tests/isaaclab and tests/mjlab.
"""

import pytest

from defm_rl.commands import gap, train
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.tasks import Ability, isaaclab, make_task


@pytest.mark.skipif(isaaclab.IsaaclabNavigation.installed(), reason="Isaac Lab is installed")
@pytest.mark.parametrize(
    ("experiment", "encoder"),
    [("isaaclab_navigation", "blind"), ("isaaclab_navigation", "resnet18"), ("mjlab_lift", "blind")],
)
def test_without_the_simulator_one_line_says_what_to_install(tmp_path, monkeypatch, capsys, experiment, encoder):
    monkeypatch.chdir(tmp_path)
    assert train.main([f"experiment={experiment}", f"encoder={encoder}", "hydra.run.dir=run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pip install {experiment.partition('_')[0]}==" in line
    assert not (tmp_path / "run" / "overrides.txt").exists()  # no run, that could be resumed, is begun


@pytest.mark.parametrize("experiment", ["isaaclab_navigation", "mjlab_lift", "mjlab_go1", "mjlab_g1"])
def test_films_are_refused(experiment):
    task = make_task(to_config(compose_config([f"experiment={experiment}", "env.sensor=stereo"])).env)
    assert task.sensor == "stereo"
    assert set(task.lacks) == {Ability.FILMS, Ability.EXPORT}
    for films in (lambda: task.require(Ability.FILMS), lambda: task.make(["state"], pictures=True)):
        with pytest.raises(ConfigError, match="cannot be filmed"):
            films()


@pytest.mark.skipif(isaaclab.IsaaclabNavigation.installed(), reason="Isaac Lab is installed")
def test_frames_of_its_scenes_need_the_simulator(capsys):
    assert gap.main(["env=isaaclab_navigation", "encoder.weights=random", "frames=16"]) == 2
    assert "pip install isaaclab==" in capsys.readouterr().err
