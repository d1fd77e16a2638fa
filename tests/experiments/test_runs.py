"""A run is what its folder says, whatever has changed since, and whatever happened to a part of it."""

import json
import logging
import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from defm_rl.commands import evaluate, train
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.runs import check_same_policy, to_config


@pytest.fixture
def logged(caplog):
    caplog.set_level(logging.INFO, "defm_rl")
    return caplog


def rewrite(run, **values):
    """Sets values of the run's config.yaml, or takes out what is None."""
    path = run.folder / "config.yaml"
    config = OmegaConf.load(path)
    for key, value in values.items():
        group, _, name = key.partition("__")
        if value is None:
            del config[group][name]
        else:
            OmegaConf.update(config, f"{group}.{name}", value, force_add=True)
    path.write_text(OmegaConf.to_yaml(config))


def test_a_run_is_what_its_configuration_says_and_not_what_its_command_line_means_today(run):
    overrides = (run.folder / "overrides.txt").read_text()
    rewrite(run, algo__gamma=0.5, env__level="corridors", env__clearance_m=0.123)
    config = run.config()
    assert (config.algo.gamma, config.env.level, config.env.clearance_m) == (0.5, "corridors", 0.123)
    changed = run.config(["algo.gamma=0.25", "env.randomization.friction_scale=[0.5,1.5]"])
    assert (changed.algo.gamma, changed.env.level) == (0.25, "corridors")
    assert list(changed.env.randomization.friction_scale) == [0.5, 1.5]
    assert (run.folder / "overrides.txt").read_text() == overrides
    rewrite(run, algo__net_arch=[8])
    with pytest.raises(ConfigError, match=r"trained with algo.net_arch=\[8\].*another policy"):
        check_same_policy(run, changed)


def test_settings_that_came_and_went_are_told_once(run, logged):
    rewrite(run, env__wind_m_s=3, encoder__standardize=None)
    assert run.config().encoder.standardize
    run.config()
    (ignored,) = (message for message in logged.messages if "ignores" in message)
    assert "run/config.yaml" in ignored
    assert "env.wind_m_s=3" in ignored
    (taken,) = (message for message in logged.messages if "older" in message)
    assert "encoder.standardize=True" in taken


def test_an_environment_of_ones_own_keeps_its_arguments(run, logged):
    own = to_config(compose_config(["env=gymnasium", "env.id=Own-v0", "env.kwargs={size: 3, walls: {high: true}}"]))
    run.save_config(own, [])
    config = run.config(["env.kwargs={size: 4}"])
    assert (config.env.id, config.env.kwargs) == ("Own-v0", {"size": 4, "walls": {"high": True}})
    assert not [message for message in logged.messages if "ignores" in message]


def test_a_configuration_that_cannot_be_read_is_named(run):
    rewrite(run, env__num_envs="many")
    with pytest.raises(ConfigError, match=r"run/config.yaml has env.num_envs=many"):
        run.config()
    rewrite(run, env__id="Another-v0", env__num_envs=4)  # with keys that no task but that of before has
    with pytest.raises(ConfigError, match=r"run/config.yaml: env.id=Another-v0.*env=navigation"):
        run.config()
    (run.folder / "config.yaml").write_text("env: [")
    with pytest.raises(ConfigError, match=r"run/config.yaml cannot be read"):
        run.config()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("encoder=cnn", "another policy"),
        ("env.depth_size=[48,96]", "another policy"),
        ("algo.net_arch=[8]", "another policy"),
        ("algo=rsl_ppo", "another policy"),
        ("env=locomotion", "another policy"),
        ("algo.log_std_init=-2", "says how a training begins"),
        ("experiment=quickstart", "says how a run begins"),
        ("algo.gamma=high", "high"),
        ("algo.gama=0.5", "Did you mean 'algo.gamma'"),
        ("algo.clip_param=0.5", "a key of algo=rsl_ppo only"),
    ],
)
def test_what_a_run_cannot_go_on_with_leaves_it_as_it_is(run, capsys, override, message):
    kept = [run.folder / name for name in ("config.yaml", "overrides.txt", "checkpoint/state.json", "metrics.json")]
    before = [path.read_bytes() for path in kept]
    assert train.main(["resume=run", override]) == 2
    assert message in capsys.readouterr().err
    assert [path.read_bytes() for path in kept] == before


def test_an_option_can_be_chosen_anew(run):
    assert not run.config().logger.wandb
    assert run.config(["logger=wandb"]).logger.wandb
    assert run.config(["encoder=cnn"]).encoder.kind == "cnn"


@pytest.mark.parametrize("damaged", ["model.zip", "state.json"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(run, logged, damaged):
    assert run.state()["steps"] == 256
    file = run.checkpoint / damaged
    os.truncate(file, file.stat().st_size // 2)
    assert run.state()["steps"] == 192
    (message,) = (message for message in logged.messages if "damaged" in message)
    assert f"run/checkpoint is damaged ({damaged}" in message
    assert "192 steps" in message
    assert evaluate.main(["run", "episodes=4"]) == 0
    assert train.main(["resume=run", "algo.total_steps=384"]) == 0
    assert run.checkpoint.name == "checkpoint"
    assert (run.state()["steps"], json.loads((run.folder / "metrics.json").read_text())["training"]["steps"]) == (
        384,
        384,
    )


def test_a_run_whose_checkpoints_are_all_damaged_says_so(run, capsys):
    for folder in ("checkpoint", "checkpoint.old"):
        (run.folder / folder / "model.zip").write_bytes(b"")
    for command in (lambda: train.main(["resume=run"]), lambda: evaluate.main(["run"])):
        assert command() == 2
        assert "run/checkpoint is damaged (model.zip has 0 of" in capsys.readouterr().err


def test_the_runs_of_a_sweep_are_found_and_what_never_began_is_left_out_with_a_line(run, logged, capsys):
    sweep = run.folder.parent / "runs" / "sweep"
    for name in ("0", "1"):
        shutil.copytree(run.folder, sweep / name)
    (sweep / "2").mkdir()
    shutil.copytree(run.folder, sweep / "3")
    for checkpoint in (sweep / "3").glob("checkpoint*"):
        shutil.rmtree(checkpoint)
    assert evaluate.main(["runs", "episodes=4"]) == 0
    results = "evaluations/2000000-4/ideal/metrics.json"
    assert sorted(path.parts[2] for path in Path().glob(f"runs/*/*/{results}")) == ["0", "1"]
    assert evaluate.main([*map(str, sorted(sweep.iterdir())), "episodes=4"]) == 0
    (line,) = (message for message in logged.messages if "runs/sweep/2" in message)
    assert "without a checkpoint: runs/sweep/2, runs/sweep/3" in line
    assert "defm-rl evaluate:" not in capsys.readouterr().err
    assert evaluate.main(["runs/sweep/2", "runs/sweep/3"]) == 2
    refused = capsys.readouterr().err
    assert "runs/sweep/2 holds no run" in refused
    assert "runs/sweep/3 holds no checkpoint" in refused
    assert train.main(["resume=runs/sweep"]) == 2
    assert "There are runs in it, such as runs/sweep/0" in capsys.readouterr().err
