"""An experiment trains, leaves everything behind that it should, survives interruption, and can be evaluated again."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from stable_baselines3 import PPO

from defm_rl.envs import NavigationVectorEnv
from defm_rl.experiments import evaluate, train
from defm_rl.experiments.runs import Run

SMALL_TASK = [
    "env.num_envs=4",
    "env.depth_size=[24,48]",
    "algo.total_steps=256",
    "evaluation.episodes=6",
    "evaluation.clips=1",
]
SMALL = [*SMALL_TASK, "algo.batch_size=32"]
SMALL_PPO = [*SMALL, "algo.n_steps=16", "algo.n_epochs=2"]
RANDOM = ["encoder=efficientnet_b0", "encoder.weights=random"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only_run(folder: Path) -> Run:
    (found,) = (path for path in folder.glob("runs/*/*") if path.is_dir())
    return Run(found)


def history(run: Run) -> list[dict[str, str]]:
    with (run.folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def metrics(run: Run) -> dict:
    return json.loads((run.folder / "metrics.json").read_text())


def test_a_run_leaves_everything_and_says_what_made_it(here):
    assert train.main(["experiment=navigation", "env.level=one_wall", "seed=3", *SMALL_PPO, *RANDOM]) == 0
    run = only_run(here)
    assert run.folder.parent.name == "navigation"
    assert (run.folder / "config.yaml").read_text().count("defm_efficientnet_b0") == 1
    assert list((run.folder / "tensorboard").glob("events*"))
    assert Image.open(run.folder / "learning_curve.png").size[0] > 300
    with Image.open(run.folder / "episodes.gif") as film:
        assert film.n_frames > 1
    with (run.folder / "episodes.csv").open() as file:
        assert [int(row["layout"]) for row in csv.DictReader(file)] == list(range(1_000_000, 1_000_006))

    made_by = metrics(run)["made_by"]
    assert made_by["encoder"]["weights"] == "random"
    assert len(made_by["encoder"]["sha256"]) == 64
    assert (made_by["seed"], made_by["sensor"]) == (3, "ideal")
    assert made_by["versions"]["torch"] == torch.__version__
    assert metrics(run)["evaluation"]["success_rate"]["episodes"] == 6
    assert metrics(run)["training"]["steps"] == 256
    # The encoder is frozen: 12 MB that a checkpoint need not hold.
    assert (run.checkpoint / "model.zip").stat().st_size < 5_000_000


def test_an_evaluation_repeats_itself_and_others_take_fresh_layouts(here, capsys):
    assert train.main(["experiment=navigation", *SMALL_PPO, *RANDOM]) == 0
    run = only_run(here)
    assert evaluate.main([str(run.folder), "episodes=6", "first_layout=1000000", "num_envs=3"]) == 0
    assert evaluate.main([str(run.folder), "episodes=6"]) == 0
    again, fresh = (
        json.loads((run.folder / "evaluations" / name / "ideal" / "metrics.json").read_text())
        for name in ("1000000-6", "2000000-6")
    )
    assert again["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-4)
    assert fresh["reward"]["mean"] != pytest.approx(again["reward"]["mean"], rel=1e-3)
    assert fresh["made_by"]["encoder"] == metrics(run)["made_by"]["encoder"]


@pytest.mark.parametrize(
    "overrides",
    [
        ["encoder=blind", *SMALL_PPO],
        ["encoder=cnn", "env.depth_size=[48,96]", *(o for o in SMALL_PPO if "depth_size" not in o)],
        ["encoder.trainable=[head]", "encoder.features=[global]", *SMALL_PPO, *RANDOM],
        ["encoder.features=[P4,global]", "encoder.pool=grid", "encoder.bifpn=true", *SMALL_PPO, *RANDOM],
        ["algo=sac", "algo.learning_starts=64", "algo.buffer_size=500", "algo.gradient_steps=1", *SMALL, *RANDOM],
    ],
    ids=["blind", "scratch", "fine-tuned", "several-features", "sac"],
)
def test_every_way_to_learn_trains_and_can_be_evaluated_again(here, overrides):
    assert train.main(["experiment=navigation", "evaluation.clips=0", *overrides]) == 0
    run = only_run(here)
    assert evaluate.main([str(run.folder), "episodes=6", "first_layout=1000000"]) == 0
    again = json.loads((run.folder / "evaluations" / "1000000-6" / "ideal" / "metrics.json").read_text())
    assert again["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-4)


def test_a_sensor_is_what_policies_see_with_and_it_is_said(here):
    assert train.main(["experiment=navigation", *SMALL_PPO, *RANDOM, "env.sensor=stereo"]) == 0
    run = only_run(here)
    assert metrics(run)["made_by"]["sensor"] == "stereo"
    assert evaluate.main([str(run.folder), "episodes=6", "first_layout=1000000", "num_envs=4"]) == 0
    again = json.loads((run.folder / "evaluations" / "1000000-6" / "stereo" / "metrics.json").read_text())
    assert again["made_by"]["sensor"] == "stereo"
    assert again["reward"] == pytest.approx(metrics(run)["evaluation"]["reward"], rel=1e-4)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_be_resumed(here, number):
    command = [sys.executable, "-m", "defm_rl.cli", "train"]
    overrides = ["experiment=navigation", *SMALL_PPO, *RANDOM, "algo.total_steps=1000000"]
    process = subprocess.Popen(
        [*command, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            files = list(here.glob("runs/*/*/history.csv"))
            if files and len(files[0].read_text().splitlines()) > 3:
                break
            time.sleep(0.2)
        process.send_signal(number)
        output, _ = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    run = only_run(here)
    assert f"defm-rl train resume={os.path.relpath(run.folder)}" in output
    steps = run.state()["steps"]
    assert steps >= 192

    total = steps + 128
    assert train.main([f"resume={run.folder}", f"algo.total_steps={total}"]) == 0
    assert only_run(here) == run
    done = [int(row["steps"]) for row in history(run)]
    assert done == sorted(set(done))
    assert done[-1] >= total
    assert metrics(run)["training"]["steps"] == run.state()["steps"] >= total


def test_resuming_goes_on_with_the_same_policy_and_learning_rate(here):
    assert train.main(["experiment=navigation", *SMALL_PPO, *RANDOM]) == 0
    run = only_run(here)
    before = metrics(run)["evaluation"]["reward"]
    assert train.main([f"resume={run.folder}"]) == 0  # nothing is left to train: only the evaluation is repeated
    assert metrics(run)["evaluation"]["reward"] == pytest.approx(before, rel=1e-4)


@pytest.mark.parametrize("algo", [SMALL_PPO, [*SMALL_TASK, "algo=rsl_ppo", "algo.num_steps_per_env=16"]])
def test_training_never_draws_a_layout_that_an_evaluation_can_name(here, monkeypatch, algo):
    played = []
    begin = NavigationVectorEnv._begin

    def watched(env, ids, seeds):
        played.extend(seeds)
        begin(env, ids, seeds)

    monkeypatch.setattr(NavigationVectorEnv, "_begin", watched)
    # The seed itself is one of the evaluation's layouts, and so would be the sum of seed and steps on resuming.
    overrides = ["experiment=navigation", "encoder=blind", "seed=1000000", *algo, "evaluation.clips=0"]
    assert train.main([*overrides, "env.max_episode_steps=5", "hydra.run.dir=run"]) == 0
    assert train.main(["resume=run", "algo.total_steps=512"]) == 0
    evaluated = {layout for layout in played if 1_000_000 <= layout < 1_000_000 + 6}
    assert len(evaluated) == 6
    drawn = [layout for layout in played if layout >= 2**31]
    assert len(drawn) > 50
    assert len(drawn) == len(set(drawn)), "the second part plays layouts of the first"
    assert set(played) == evaluated | set(drawn)


def test_layouts_that_training_could_draw_are_no_evaluation(here, capsys):
    assert train.main(["experiment=navigation", "encoder=blind", *SMALL_PPO, f"evaluation.first_layout={2**31}"]) == 2
    assert "first_layout must lie from 0 to" in capsys.readouterr().err


def test_the_learning_rate_falls_to_its_end_within_the_time_limit(here):
    endless = ["algo.total_steps=100000000", "algo.time_limit_s=4", "algo.n_steps=16", "evaluation.clips=0"]
    assert train.main(["experiment=navigation", "encoder=blind", *SMALL, *endless]) == 0
    run = only_run(here)
    assert metrics(run)["training"]["time_limit_hit"]
    model = PPO.load(run.checkpoint / "model.zip")
    assert model.policy.optimizer.param_groups[0]["lr"] < 0.3 * run.config().algo.learning_rate  # falls to 0.1


@pytest.mark.parametrize("content", [None, "overrides only"])
def test_a_folder_without_a_checkpoint_cannot_be_resumed_or_evaluated(here, capsys, content):
    folder = here / "empty"
    folder.mkdir()
    if content:
        Run(folder).folder.joinpath("overrides.txt").write_text("experiment=navigation\n")
    for command in (lambda: train.main([f"resume={folder}"]), lambda: evaluate.main([str(folder)])):
        assert command() == 2
        assert "holds no checkpoint" in (error := capsys.readouterr().err) or "holds no run" in error


def test_a_checkpoint_with_other_encoder_weights_is_refused(here, capsys):
    assert train.main(["experiment=navigation", *SMALL_PPO, *RANDOM, "evaluation.clips=0"]) == 0
    run = only_run(here)
    state = run.state()
    state["encoder"]["sha256"] = "0" * 64
    (run.checkpoint / "state.json").write_text(json.dumps(state))
    capsys.readouterr()
    assert evaluate.main([str(run.folder)]) == 2
    assert "0000" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Name a run"),
        (["somewhere", "episode=5"], "Did you mean 'episodes'"),
        (["somewhere", "episodes=many"], "many"),
        (["somewhere", "episodes=0"], "at least 1"),
        (["somewhere"], "holds no run"),
    ],
)
def test_a_wrong_evaluation_says_what_to_write(here, capsys, arguments, message):
    assert evaluate.main(arguments) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def no_hub(monkeypatch, tmp_path):
    """A Hub that refuses connections, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_only_the_quick_start_goes_on_without_the_hub(here, no_hub, capsys):
    small = [*SMALL_PPO, "encoder=efficientnet_b0"]
    assert train.main(["experiment=navigation", *small]) == 2
    assert "hf download" in capsys.readouterr().err
    assert train.main(["experiment=quickstart", *small, "encoder.fallback=random", "evaluation.clips=0"]) == 0
    (run,) = (Run(path) for path in here.glob("runs/quickstart/*"))
    assert "RANDOM weights" in (run.folder / "train.log").read_text()
    assert metrics(run)["made_by"]["encoder"]["weights"] == "random"
    # What it was trained with is what it is evaluated with, whether the Hub can be reached by then or not.
    assert evaluate.main([str(run.folder), "episodes=4"]) == 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("env.level=two_wals", "two_walls"),
        ("env.renderer=vulkan", "egl"),
        ("env.sensor=sterio", "did you mean 'stereo'"),
        ("encoder.cameras=[dept]", "depth"),
        ("algo.observations=[stat]", "did you mean 'state'"),
        ("encoder.features=[P9]", "P3"),
        ("encoder.pool=max", "columns"),
        ("encoder.name=defm_resnet19", "defm_resnet18"),
        ("encoder.weights=/nowhere.pth", "does not exist"),
        ("encoder.trainable=[layer9]", "stem"),
    ],
)
def test_a_setting_that_cannot_be_ends_with_a_message(here, capsys, override, message):
    assert train.main(["experiment=navigation", *SMALL_PPO, *RANDOM, override]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_weights_and_biases_records_offline(here, monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    overrides = ["experiment=navigation", "encoder=blind", *SMALL_PPO, "evaluation.clips=0", "logger=wandb"]
    assert train.main([*overrides, "logger.mode=offline"]) == 0
    files = list(only_run(here).folder.glob("wandb/offline-run-*/*.wandb"))
    assert files
    assert files[0].stat().st_size > 1000
