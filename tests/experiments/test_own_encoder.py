"""An encoder of one's own goes through the commands by settings alone."""

import json
from pathlib import Path

import pytest

from defm_rl.commands import evaluate, gap, memory, train
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.overrides import check_overrides
from defm_rl.experiments.runs import to_config

THEIRS = ["env=gymnasium", "env.id=their_tasks:their/WhichSide-v0", "env.num_envs=4"]
CUSTOM = ["encoder=custom", "encoder.class_name=own_networks:Pyramid", "encoder.kwargs.width=4"]
SHORT = [
    *("algo.n_steps=8", "algo.batch_size=16", "algo.n_epochs=1", "algo.total_steps=64"),
    *("evaluation.episodes=4", "evaluation.clips=0", "hydra.run.dir=run"),
]
RSL = ["algo=rsl_ppo", "algo.num_steps_per_env=8", "algo.num_learning_epochs=1", "algo.total_steps=64", *SHORT[-3:]]
NAME = "own_networks:Pyramid(width=4)"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "tasks")  # for `their_tasks`
    monkeypatch.chdir(tmp_path)
    return tmp_path


def encoder(*overrides):
    return to_config(compose_config([*THEIRS, *overrides])).encoder


def test_a_class_and_its_arguments_become_the_encoders_name():
    assert encoder(*CUSTOM).name == NAME
    assert encoder(*CUSTOM, "encoder.kwargs={width: 5}").name == "own_networks:Pyramid(width=5)"
    assert encoder("encoder=resnet18", "encoder.name=resnet18").name == "defm_resnet18"
    assert encoder("encoder=timm").name == "defm_rl.encoders:TimmEncoder(model='mobilenetv3_small_100')"


@pytest.mark.parametrize(
    "settings",
    [
        SHORT,
        [*SHORT, "encoder.trainable=all", "encoder.features=[P2]", "encoder.pool=mean"],
        [*RSL, "encoder.features=[P3,global]"],
    ],
    ids=["frozen", "trained", "rsl_rl"],
)
@pytest.mark.sweep(3)
def test_it_is_trained_evaluated_behind_sensors_and_reported(here, capsys, settings):
    assert train.main([*THEIRS, *CUSTOM, *settings]) == 0
    state = json.loads((here / "run" / "metrics.json").read_text())["made_by"]["encoder"]
    assert state["name"] == NAME
    assert (state["weights"], len(state["sha256"])) == ("random", 64)
    options = ["episodes=4", "clips=0", "frames=8", "report=report"]
    assert evaluate.main(["run", "sensors=[ideal,stereo]", *options]) == 0, capsys.readouterr().err
    assert "own_networks:Pyramid" in (here / "report" / "report.html").read_text()


def test_it_takes_part_in_what_is_said_before_a_training(capsys, caplog):
    assert memory.main([*THEIRS, *CUSTOM, *SHORT[:4]]) == 0
    assert gap.main([*THEIRS, *CUSTOM, "frames=8", "sensors=[stereo]"]) == 0, capsys.readouterr().err
    assert "stereo" in caplog.text


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["encoder=custom"], "encoder.class_name and encoder.kwargs: An encoder's class is named as"),
        (["encoder=custom", "encoder.class_name=own_networks:NoFeatureDim"], "has no feature_dim"),
        (["encoder=custom", "encoder.class_name=own_networks"], "package.module:Class"),
        ([*CUSTOM, "encoder.kwargs.depth=3"], "depth"),
        ([*CUSTOM, "encoder.features=[P5]"], "P2"),
        (["encoder=resnet18", "encoder.weights=random", "encoder.kwargs.width=3"], "encoder=custom"),
    ],
)
def test_what_cannot_be_ends_with_a_message(here, capsys, overrides, message):
    assert train.main([*THEIRS, *overrides, *SHORT]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not list(here.iterdir())


def test_settings_of_a_class_may_have_any_name():
    check_overrides([*THEIRS, *CUSTOM, "encoder.kwargs.whatever=[1,2]"])
    with pytest.raises(ConfigError, match=r"Did you mean 'encoder.kwargs'"):
        check_overrides([*THEIRS, *CUSTOM, "encoder.kwarg.width=3"])
