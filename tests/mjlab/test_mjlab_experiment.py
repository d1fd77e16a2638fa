"""`defm-rl train experiment=mjlab_lift`: the same folder, sensors, evaluation and report as of any other run."""

import csv
import json
from pathlib import Path

import pytest

from defm_rl.commands import evaluate, train
from defm_rl.experiments.runs import Run

RANDOM = ["encoder=efficientnet_b0", "encoder.weights=random", "encoder.grid=[1,4]"]
SMALL = [
    *("experiment=mjlab_lift", "env.num_envs=4", "env.depth_size=[32,32]", "env.device=cpu"),
    *("env.max_episode_steps=5", "algo.total_steps=64", "algo.num_steps_per_env=8", "algo.num_learning_epochs=1"),
    *("algo.net_arch=[16]", "evaluation.episodes=4"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(*overrides: str) -> Run:
    assert train.main([*SMALL, *RANDOM, *overrides, "hydra.run.dir=run"]) == 0
    return Run(Path("run"))


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def test_a_policy_is_trained_behind_a_sensor_and_reported_behind_others(here):
    run = trained("env.sensor=stereo")
    made_by = read(run.folder / "metrics.json")["made_by"]
    assert made_by["sensor"] == "stereo"
    assert made_by["versions"]["mjlab"]
    with (run.folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["layout"]) for row in rows] == list(range(1_000_000, 1_000_004))
    assert {row["failure"] for row in rows} <= {"", "timeout", "ee_ground_collision"}
    assert {row["success"] for row in rows} <= {"True", "False"}
    again = ["run", "sensors=[ideal,stereo,zedx]", "episodes=4", "num_envs=4", "first_layout=1000000"]
    assert evaluate.main([*again, "clips=0", "frames=8", "report=report"]) == 0
    report = read(here / "report" / "report.json")
    assert set(report["policies"][0]["by_sensor"]) == {"ideal", "stereo", "zedx"}
    found = read(run.folder / "evaluations" / "1000000-4" / "stereo" / "metrics.json")
    trained_with = read(run.folder / "metrics.json")["evaluation"]
    assert found["reward"]["mean"] == pytest.approx(trained_with["reward"]["mean"], rel=1e-2)


def test_an_encoder_is_trained_in_the_policy_and_goes_on(here):
    run = trained("encoder.trainable=[all]")
    assert train.main(["resume=run", "algo.total_steps=96"]) == 0
    assert run.state()["steps"] == 96


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.clips=1", "cannot be filmed"),
        ("env.sensor=sterio", "did you mean 'stereo'"),
        ("env.depth_size=[0,48]", "env.depth_size"),
        ("algo.observations=[state,smell]", "does not give 'smell'"),
    ],
)
def test_a_setting_that_the_task_has_not_is_refused(here, capsys, override, message):
    assert train.main([*SMALL, *RANDOM, override]) == 2
    assert message in capsys.readouterr().err


def test_stable_baselines3_is_for_other_environments(here, capsys):
    assert train.main(["env=mjlab_lift", "algo=ppo", "evaluation.clips=0", *RANDOM]) == 2
    assert "algo=rsl_ppo" in capsys.readouterr().err
