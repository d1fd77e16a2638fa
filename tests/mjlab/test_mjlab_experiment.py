"""`experiment=mjlab_lift`, `mjlab_go1` and `mjlab_g1`: same folder, sensors, evaluation and report as any run has."""

import csv
import dataclasses
import json
from pathlib import Path

import pytest
from mjlab.tasks import registry
from mjlab.tasks.registry import load_env_cfg

from defm_rl.commands import adapt, evaluate, gap, train
from defm_rl.experiments.runs import Run

RANDOM = ["encoder=efficientnet_b0", "encoder.weights=random", "encoder.grid=[1,4]"]
SMALL = [
    *("env.num_envs=4", "env.depth_size=[32,32]", "env.device=cpu"),
    *("env.max_episode_steps=5", "algo.total_steps=64", "algo.num_steps_per_env=8", "algo.num_learning_epochs=1"),
    *("algo.net_arch=[16]", "evaluation.episodes=4"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trained(*overrides: str) -> Run:
    assert train.main(["experiment=mjlab_lift", *SMALL, *RANDOM, *overrides, "hydra.run.dir=run"]) == 0
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
    # The encoder that this policy sees by is adapted to a camera, and takes its place.
    assert adapt.main(["run", "sensors=[stereo]", "held_out=[]", "frames=32", "steps=2"]) == 0
    adapted = run.folder / "adapted" / "stereo.safetensors"
    assert adapted.exists()
    options = ["sensors=[stereo]", "episodes=2", "num_envs=2", "clips=0", "frames=8", "report=adapted"]
    assert evaluate.main(["run", f"adapted={adapted}", *options]) == 0
    (policy, own) = read(here / "adapted" / "report.json")["policies"]
    assert policy["task"] == own["task"]


@pytest.mark.parametrize("experiment", ["mjlab_go1", "mjlab_g1"])
def test_a_legged_robot_is_trained_and_reported_behind_sensors(here, little_terrain, experiment):
    assert train.main([f"experiment={experiment}", *SMALL, *RANDOM, "hydra.run.dir=run"]) == 0
    run = Run(Path("run"))
    assert run.state()["steps"] == 64
    options = ["sensors=[ideal,stereo]", "episodes=2", "num_envs=2", "clips=0", "frames=8", "report=report"]
    assert evaluate.main(["run", *options]) == 0
    report = read(here / "report" / "report.json")
    assert set(report["policies"][0]["by_sensor"]) == {"ideal", "stereo"}
    assert report["measure"] == "reward"  # of velocities no success is known


def test_what_cameras_do_to_features_is_said_of_a_managed_task(here, caplog):
    keys = ["env=mjlab_lift", "env.depth_size=[32,32]", "env.device=cpu", "algo=rsl_ppo", *RANDOM]
    with caplog.at_level("INFO"):
        assert gap.main([*keys, "frames=8", "sensors=[stereo]", "report=gap"]) == 0
    assert "stereo" in caplog.text
    assert (here / "gap" / "report.html").exists()


@pytest.fixture
def little_terrain(monkeypatch):
    """One piece of terrain: the stock ones take a minute to be made."""

    def load(task):
        cfg = load_env_cfg(task)
        terrain = cfg.scene.terrain
        pieces = dataclasses.replace(terrain.terrain_generator, num_rows=1, num_cols=1, border_width=1.0)
        terrain.terrain_generator, terrain.max_init_terrain_level = pieces, 0
        return cfg

    monkeypatch.setattr(registry, "load_env_cfg", load)


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
    assert train.main(["experiment=mjlab_lift", *SMALL, *RANDOM, override]) == 2
    assert message in capsys.readouterr().err


def test_stable_baselines3_is_for_other_environments(here, capsys):
    assert train.main(["env=mjlab_lift", "algo=ppo", "evaluation.clips=0", *RANDOM]) == 2
    assert "algo=rsl_ppo" in capsys.readouterr().err
