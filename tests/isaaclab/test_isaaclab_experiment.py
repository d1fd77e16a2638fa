"""`defm-rl train experiment=isaaclab_navigation`: the same folder, resumption and evaluation as of any other run."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from defm_rl import DepthEncoder
from defm_rl.commands import evaluate, train
from defm_rl.envs.isaaclab.layouts import DRAWN, Layouts
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import isaaclab
from defm_rl.terms.sharing import SharedDepth

RANDOM = ["encoder=efficientnet_b0", "encoder.weights=random", "encoder.grid=[1,4]"]
SMALL = [
    *("experiment=isaaclab_navigation", "env.num_envs=8", "env.depth_size=[32,48]", "env.device=cpu"),
    *("env.max_episode_steps=6", "algo.total_steps=128", "algo.num_steps_per_env=8", "algo.num_learning_epochs=1"),
    "evaluation.episodes=6",
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def made(monkeypatch):
    """What a run encodes with in each of the environments that it makes."""
    encoded, make = [], isaaclab.IsaaclabNavigation.make_encoded

    def kept(*args, **kwargs):
        env = make(*args, **kwargs)
        encoded.append(list(SharedDepth.of(env.task).encoded.values()))
        return env

    monkeypatch.setattr(isaaclab.IsaaclabNavigation, "make_encoded", kept)
    return encoded


def trained(*overrides: str) -> Run:
    assert train.main([*SMALL, *overrides, "hydra.run.dir=run"]) == 0
    return Run(Path("run"))


def metrics(run: Run) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())


def saved(run: Run) -> dict:
    return torch.load(run.checkpoint / "model.pt")


def test_a_run_leaves_what_every_run_does_and_its_frozen_encoder_as_it_was(here, made):
    run = trained(*RANDOM)
    assert {path.name for path in run.folder.iterdir()} >= {
        *("config.yaml", "overrides.txt", "checkpoint", "history.csv", "learning_curve.png", "tensorboard"),
        *("metrics.json", "episodes.csv"),
    }
    with (run.folder / "history.csv").open() as file:
        assert [row["steps"] for row in csv.DictReader(file)] == ["64", "128"]
    made_by = metrics(run)["made_by"]
    assert made_by["versions"]["isaaclab"]
    assert made_by["sensor"] == "ideal"
    with (run.folder / "episodes.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["layout"]) for row in rows] == list(range(1_000_000, 1_000_006))
    assert {row["failure"] for row in rows} <= {"", "collision", "timeout"}
    assert all(1 <= int(row["steps"]) <= 6 for row in rows)
    (training,), (_,) = made
    assert training.encodings <= 2 * 8 + 2  # those of the rollouts: no update and no critic encodes again
    fresh = DepthEncoder(
        "defm_efficientnet_b0", weights="random", features="P3", grid=(1, 4), bifpn=False, image_size=(32, 48)
    )
    for key, value in fresh.net.state_dict().items():
        assert torch.equal(value, training.encoder.net.state_dict()[key])
    assert not any("encoder" in key for key in saved(run)["actor_state_dict"])


def test_a_run_is_evaluated_again_on_the_same_worlds_and_goes_on(here, capsys):
    run = trained(*RANDOM)
    assert evaluate.main(["run", "episodes=6", "first_layout=1000000", "num_envs=2"]) == 0
    again = json.loads((run.folder / "evaluations" / "1000000-6" / "ideal" / "metrics.json").read_text())
    assert again["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-3)
    before = saved(run)["optimizer_state_dict"]["state"][0]["step"]
    assert train.main(["resume=run", "algo.total_steps=192"]) == 0
    assert run.state()["steps"] == 192
    assert run.state()["resumed"] == [{"steps": 128, "overrides": ["algo.total_steps=192"]}]
    assert saved(run)["optimizer_state_dict"]["state"][0]["step"] > before
    assert train.main(["resume=run", "env.depth_size=[48,48]"]) == 2
    assert "another policy" in capsys.readouterr().err


def test_a_policy_is_trained_behind_a_sensor_and_reported_behind_others(here):
    run = trained(*RANDOM, "env.sensor=stereo")
    assert metrics(run)["made_by"]["sensor"] == "stereo"
    again = ["run", "sensors=[ideal,stereo,zedx]", "episodes=6", "first_layout=1000000", "num_envs=8"]
    assert evaluate.main([*again, "clips=0", "frames=8", "report=report"]) == 0
    report = json.loads(Path("report/report.json").read_text())
    assert set(report["policies"][0]["by_sensor"]) == {"ideal", "stereo", "zedx"}
    found = json.loads((run.folder / "evaluations" / "1000000-6" / "stereo" / "metrics.json").read_text())
    assert found["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-3)


@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder=blind"],
        [*RANDOM, "encoder.trainable=[all]"],
        ["encoder=cnn", "env.depth_size=[40,48]", "algo.rnn_type=gru"],
    ],
    ids=["blind", "fine-tuned", "scratch-gru"],
)
def test_every_way_to_learn_trains_and_can_be_evaluated_again(here, made, overrides):
    run = trained(*overrides)
    assert made == [[], []]  # nothing is encoded outside the policy
    trains_an_encoder = any(key.startswith("encoding.") for key in saved(run)["actor_state_dict"])
    assert trains_an_encoder == ("encoder=blind" not in overrides)
    assert evaluate.main(["run", "episodes=6", "first_layout=1000000"]) == 0
    again = json.loads((run.folder / "evaluations" / "1000000-6" / "ideal" / "metrics.json").read_text())
    assert again["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-3)


def test_a_student_learns_from_a_teacher_that_knows_the_world(here):
    small = [entry for entry in SMALL if not entry.startswith("experiment=")]
    teacher = ["encoder=blind", "algo.observations=[state,privileged]", "hydra.run.dir=teacher"]
    assert train.main([*SMALL, *teacher]) == 0
    student = ["env=isaaclab_navigation", "algo=distillation", "teacher=teacher", "evaluation.clips=0", *RANDOM]
    assert train.main([*student, *small, "hydra.run.dir=run"]) == 0
    assert metrics(Run(Path("run")))["made_by"]["teacher"]["run"] == "teacher"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluation.clips=1", "cannot be filmed"),
        ("env.sensor=sterio", "did you mean 'stereo'"),
        ("encoder.cameras=[wrist_depth]", "one camera"),
        ("algo.observations=[state,smell]", "does not give 'smell'"),
        ("env.max_episode_steps=0", "env.max_episode_steps"),
        ("env.depth_size=[0,48]", "env.depth_size"),
    ],
)
def test_a_setting_that_the_task_has_not_is_refused(here, capsys, override, message):
    assert train.main([*SMALL, *RANDOM, override]) == 2
    assert message in capsys.readouterr().err


def test_stable_baselines3_and_mujoco_are_for_another_environment(here, capsys):
    assert train.main(["env=isaaclab_navigation", "algo=ppo", *RANDOM]) == 2
    assert "algo=rsl_ppo" in capsys.readouterr().err
    assert train.main(["experiment=navigation", "env.level=open", "encoder=blind"]) == 2
    assert "mujoco>=" in capsys.readouterr().err


def test_a_numbered_world_is_the_same_wherever_it_is_played():
    layouts = Layouts(4, "cpu")
    layouts.draw(torch.tensor([3, 1, 0]), [7, 8])
    assert layouts.numbers.tolist() == [DRAWN, 8, DRAWN, 7]
    other = Layouts(2, "cpu")
    other.draw(torch.tensor([0]), [7])
    for name in ("start", "goal", "walls", "_to_go_m"):
        assert torch.equal(getattr(layouts, name)[3], getattr(other, name)[0])
    assert not torch.equal(layouts.walls[3], layouts.walls[1])
    assert not torch.equal(layouts.walls[0], layouts.walls[2])
    assert math.isfinite(float(other.to_go_m(other.start[:, :2])[0]))
