"""RSL-RL behind `defm-rl train`: the same folder, interruption and evaluation as for any other trainer."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from defm_rl.commands import evaluate, train
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.episodes import WatchEpisodes
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers import rsl_rl
from defm_rl.experiments.trainers.rsl_rl import RslRlTrainer

RATE = "algo.learning_rate"
RANDOM = ["encoder=efficientnet_b0", "encoder.weights=random"]
SMALL = ["env.num_envs=4", "env.depth_size=[24,48]", "algo.total_steps=128", "evaluation.episodes=4"]
PPO = ["experiment=navigation", "algo=rsl_ppo", *SMALL, "algo.num_steps_per_env=16", "algo.num_learning_epochs=2"]
WALK = [*SMALL, "env.max_episode_steps=20", "evaluation.clips=0"]
STUDENT = ["experiment=locomotion_student", *WALK, "algo.num_steps_per_env=16", *RANDOM, "encoder.grid=[1,2]"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    assert train.main(["experiment=locomotion_teacher", *WALK, f"hydra.run.dir={folder}"]) == 0
    return folder


def trained(*overrides: str) -> Run:
    assert train.main([*overrides, "hydra.run.dir=run"]) == 0
    return Run(Path("run"))


def metrics(run: Run) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())


def evaluated(run: Run) -> dict:
    assert evaluate.main([str(run.folder), "episodes=4", "first_layout=1000000"]) == 0
    return json.loads((run.folder / "evaluations" / "1000000-4" / "ideal" / "metrics.json").read_text())


def test_a_run_leaves_what_every_run_does(here):
    run = trained(*PPO, *RANDOM, "evaluation.clips=1")
    assert {path.name for path in run.folder.iterdir()} >= {
        *("config.yaml", "overrides.txt", "checkpoint", "history.csv", "learning_curve.png", "tensorboard"),
        *("metrics.json", "episodes.csv", "episodes.gif"),
    }
    with (run.folder / "history.csv").open() as file:
        assert [row["steps"] for row in csv.DictReader(file)] == ["64", "128"]
    assert metrics(run)["made_by"]["versions"]["rsl-rl-lib"]
    assert (run.checkpoint / "model.pt").stat().st_size < 5_000_000  # without the frozen encoder
    assert evaluated(run)["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-4)


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder=blind", "algo.rnn_type=gru", "algo.obs_normalization=true"],
        [*RANDOM, "encoder.trainable=[head]", "encoder.features=[global]"],
        [*RANDOM, "algo.critic_observations=[state]", "algo.rnn_type=lstm"],
        ["encoder=cnn", "env.depth_size=[48,96]", "algo.schedule=fixed", "algo.final_learning_rate_share=0.5"],
    ],
    ids=["blind-gru", "fine-tuned", "lstm-unlike-critic", "scratch"],
)
def test_every_way_to_learn_trains_and_can_be_evaluated_again(here, overrides):
    run = trained(*PPO, "evaluation.clips=0", *overrides)
    assert evaluated(run)["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-4)


def test_evaluating_leaves_the_number_of_threads_as_it_was(here):
    run = trained(*PPO, "encoder=blind", "evaluation.clips=0")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # a blind policy is given one
    try:
        evaluated(run)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_an_interrupted_run_goes_on(here):
    command = [sys.executable, "-m", "defm_rl.cli", "train", *PPO, "encoder=blind", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [*command, "algo.total_steps=1000000"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    history = here / "run" / "history.csv"
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not (history.exists() and len(history.read_text().splitlines()) > 3):
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "defm-rl train resume=run" in output
    run = Run(Path("run"))
    steps = run.state()["steps"]
    before = torch.load(run.checkpoint / "model.pt")["optimizer_state_dict"]["state"][0]["step"]
    assert train.main(["resume=run", f"algo.total_steps={steps + 64}", "evaluation.clips=0"]) == 0
    assert run.state()["steps"] >= steps + 64
    assert torch.load(run.checkpoint / "model.pt")["optimizer_state_dict"]["state"][0]["step"] > before


def test_an_adaptive_learning_rate_is_the_checkpoints_unless_it_is_set_anew(here):
    run = trained(*PPO, "encoder=blind", "evaluation.clips=0", "algo.desired_kl=1e-9")  # falls at once
    config = run.config()
    env = make_task(config.env).make(rsl_rl.training_keys(config))
    trainers = [RslRlTrainer(config, WatchEpisodes(env), run.checkpoint, 128, changed) for changed in ([], [RATE])]
    env.close()
    kept, anew = (trainer.runner.alg for trainer in trainers)
    assert kept.learning_rate == kept.optimizer.param_groups[0]["lr"] < 0.5 * config.algo.learning_rate
    assert anew.learning_rate == anew.optimizer.param_groups[0]["lr"] == config.algo.learning_rate


def test_a_learning_rate_falls_where_it_does_not_adapt(here):
    run = trained(
        *PPO, "encoder=blind", "evaluation.clips=0", "algo.schedule=fixed", "algo.final_learning_rate_share=0"
    )
    groups = torch.load(run.checkpoint / "model.pt")["optimizer_state_dict"]["param_groups"]
    assert groups[0]["lr"] == pytest.approx(0.5e-3)  # of 1e-3, before the second of two iterations


@pytest.mark.sweep(3)
@pytest.mark.parametrize(
    "extra",
    [[], ["encoder=blind"], ["encoder.trainable=[head]", "encoder.features=[global]"]],
    ids=["frozen", "blind", "fine"],
)
def test_a_student_learns_from_its_teacher_and_says_so(here, teacher, extra):
    run = trained(*STUDENT, f"teacher={teacher}", *extra)
    made_by = metrics(run)["made_by"]
    assert made_by["teacher"]["run"] == str(teacher)
    assert len(made_by["teacher"]["sha256"]) == 64
    saved, taught = torch.load(run.checkpoint / "model.pt"), torch.load(Run(teacher).checkpoint / "model.pt")
    for name, weights in taught["actor_state_dict"].items():
        assert torch.equal(saved["teacher_state_dict"][name], weights)
    again = evaluated(run)
    # Feet in contact make much of the last digits in which batches of another order differ.
    assert again["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], abs=0.05)
    assert again["share_traversed"]["mean"] >= 0


@pytest.mark.slow
def test_a_student_goes_on_without_its_teachers_folder(here, teacher):
    copy = shutil.copytree(teacher, here / "teacher")
    run = trained(*STUDENT, f"teacher={copy}", "encoder=blind")
    shutil.rmtree(copy)
    assert train.main(["resume=run", "algo.total_steps=256"]) == 0
    assert run.state()["steps"] == 256
    assert run.state()["teacher"]["run"] == str(copy)


def test_a_training_in_which_no_episode_ends_has_a_history_and_no_empty_curve(here, teacher, capsys):
    run = trained(*STUDENT, f"teacher={teacher}", "encoder=blind", "env.max_episode_steps=100")
    with (run.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["steps"], row["success_rate"]) for row in rows] == [("64", ""), ("128", "")]
    assert not (run.folder / "learning_curve.png").exists()
    said = capsys.readouterr().out
    assert "No episode ended while it trained" in said
    assert "Look at" not in said


def test_a_student_without_a_fitting_teacher_is_told_why(here, teacher, capsys):
    def refused(*overrides):
        assert train.main([*STUDENT, *overrides]) == 2
        return capsys.readouterr().err

    assert "teacher=RUN" in refused()
    assert "holds no run" in refused(f"teacher={here / 'nowhere'}")
    assert "was trained on defm_rl/Locomotion-v0" in refused("env=navigation", f"teacher={teacher}")
    student = trained(*STUDENT, f"teacher={teacher}", "encoder=blind")
    assert "algo=distillation" in refused(f"teacher={student.folder}")


def test_the_runners_settings_are_rsl_rls_own():
    overrides = ["experiment=navigation", "algo=rsl_ppo", "algo.clip_param=0.3", "algo.critic_observations=[state]"]
    config = to_config(compose_config([*overrides, *RANDOM, "encoder.trainable=[all]"]))
    settings = rsl_rl.runner_settings(config)
    assert settings["obs_groups"] == {"actor": ["depth", "state"], "critic": ["state"]}
    assert settings["algorithm"]["clip_param"] == 0.3
    assert settings["algorithm"]["class_name"] == "defm_rl.rsl_rl:EncoderPPO"
    assert not settings["algorithm"]["share_cnn_encoders"]
    assert settings["actor"]["encoder"]["trainable"] == "all"
    with pytest.raises(ConfigError, match="teacher=RUN"):
        rsl_rl.training_keys(to_config(compose_config(["experiment=locomotion_student"])))


@pytest.mark.slow
def test_navigation_without_obstacles_is_learned(here):
    run = trained("experiment=navigation", "algo=rsl_ppo", "env.level=open", "encoder=blind", "algo.total_steps=40000")
    assert metrics(run)["evaluation"]["success_rate"]["mean"] > 0.95
