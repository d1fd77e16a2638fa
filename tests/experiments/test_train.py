"""An experiment trains, leaves everything behind that it should, survives interruption, and can be evaluated again."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import torch
import wandb
from PIL import Image
from stable_baselines3 import PPO, SAC
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from defm_rl.commands import evaluate, gap, train
from defm_rl.envs import NavigationVectorEnv
from defm_rl.experiments import tracking
from defm_rl.experiments.config import compose_config
from defm_rl.experiments.episodes import WatchEpisodes
from defm_rl.experiments.overrides import check_overrides
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers import make_trainer, training_keys

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


def slow(overrides):
    return pytest.param(overrides, marks=pytest.mark.slow)


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


@pytest.mark.slow
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
        slow(["encoder.trainable=[head]", "encoder.features=[global]", *SMALL_PPO, *RANDOM]),
        slow(["encoder.features=[P4,global]", "encoder.pool=grid", "encoder.bifpn=true", *SMALL_PPO, *RANDOM]),
        slow(["algo=sac", "algo.learning_starts=64", "algo.buffer_size=500", "algo.gradient_steps=1", *SMALL, *RANDOM]),
    ],
    ids=["blind", "scratch", "fine-tuned", "several-features", "sac"],
)
@pytest.mark.sweep(2)
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


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_can_be_resumed(here, number):
    command = [sys.executable, "-m", "defm_rl.cli", "train"]
    overrides = ["experiment=navigation", *SMALL_PPO, "encoder=blind", "algo.total_steps=1000000"]
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


def curve(run: Run, tag: str) -> list[int]:
    """The steps of a curve as TensorBoard shows it."""
    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_with_one_line(here):
    overrides = ["encoder=blind", *SMALL_PPO, "algo.total_steps=60000", "checkpoint_every=500", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "defm_rl.cli", "train", "experiment=navigation", *overrides],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    run = Run(Path("run"))
    try:
        deadline = time.monotonic() + 120
        ahead = 0
        while time.monotonic() < deadline and ahead < 128:
            time.sleep(0.01)
            if run.has_checkpoint and (run.folder / "history.csv").exists():
                ahead = int(history(run)[-1]["steps"] or 0) - run.state()["steps"]
        process.kill()
        process.wait()
    finally:
        process.kill()
    killed_at, kept = int(history(run)[-1]["steps"]), run.state()["steps"]
    assert killed_at > kept
    assert train.main(["resume=run", f"algo.total_steps={kept + 320}", "evaluation.clips=0"]) == 0
    steps = [int(row["steps"]) for row in history(run)]
    assert steps == list(range(64, kept + 320 + 1, 64))
    shown = curve(run, "rollout/success_rate")
    assert shown == [step for step in steps if step >= shown[0]]
    losses = curve(run, "train/loss")
    assert losses == sorted(set(losses))


def trained(*overrides: str) -> Run:
    assert train.main(["experiment=navigation", "encoder=blind", "evaluation.clips=0", *overrides]) == 0
    (folder,) = (path.parent for path in Path().glob("run*/config.yaml"))
    return Run(folder)


RUN = "hydra.run.dir=run"


@pytest.mark.slow
def test_a_finished_run_that_is_resumed_says_so_and_is_evaluated_again(run, capsys):
    before = metrics(run)["evaluation"]["reward"]
    for more in ([], ["algo.total_steps=1000", "algo.time_limit_s=0.01"]):
        assert train.main([f"resume={run.folder}", *more]) == 0
        said = capsys.readouterr().out
        assert re.search(r"run is trained to its end: .* would add more.*\n.*On layouts never seen", said, re.DOTALL)
        assert run.state()["steps"] == 256
    assert metrics(run)["evaluation"]["reward"] == pytest.approx(before, rel=1e-4)


@pytest.mark.slow
def test_resuming_trains_on_with_the_schedules_learning_rate(here, monkeypatch):
    updates = []
    update = PPO.train

    def watched(model):
        update(model)
        updates.append((model.num_timesteps, model.policy.optimizer.param_groups[0]["lr"]))

    monkeypatch.setattr(PPO, "train", watched)
    run = trained(*SMALL_PPO, RUN, "algo.learning_rate=1e-3", "algo.final_learning_rate_share=0.5")
    before = PPO.load(run.checkpoint / "model.zip").policy.state_dict()
    assert train.main(["resume=run", "algo.total_steps=512"]) == 0
    assert [steps for steps, _ in updates] == [64, 128, 192, 256, 320, 384, 448, 512]
    for total, part in ((256, updates[:4]), (512, updates[4:])):
        for steps, rate in part:
            assert rate == pytest.approx(1e-3 * (0.5 + 0.5 * (1 - steps / total)))
    after = PPO.load(run.checkpoint / "model.zip").policy.state_dict()
    assert not torch.equal(before["action_net.weight"], after["action_net.weight"])


@pytest.mark.slow
def test_a_resumed_run_keeps_what_it_was_told(run):
    assert train.main(["resume=run", "algo.total_steps=320", "seed=7"]) == 0
    assert (run.config().algo.total_steps, run.config().seed) == (320, 7)
    assert "total_steps: 320" in (run.folder / "config.yaml").read_text()
    assert train.main(["resume=run", "algo.total_steps=384"]) == 0
    assert (run.config().algo.total_steps, run.config().seed) == (384, 7)
    assert metrics(run)["training"]["resumed"] == [
        {"steps": 256, "overrides": ["algo.total_steps=320", "seed=7"]},
        {"steps": 320, "overrides": ["algo.total_steps=384"]},
    ]


@pytest.mark.slow
def test_sac_fills_its_buffer_again_before_it_learns_on(here, monkeypatch):
    sizes = []
    update = SAC.train

    def watched(model, *args, **kwargs):
        sizes.append(model.replay_buffer.size())
        update(model, *args, **kwargs)

    monkeypatch.setattr(SAC, "train", watched)
    sac = ["algo=sac", "algo.learning_starts=64", "algo.buffer_size=500", "algo.gradient_steps=1"]
    trained(*SMALL, *sac, RUN, "algo.total_steps=128")
    assert sizes
    assert min(sizes) >= 64 // 4  # rows of four environments
    sizes.clear()
    assert train.main(["resume=run", "algo.total_steps=256"]) == 0
    assert sizes
    assert min(sizes) >= 64 // 4


def test_sac_goes_on_with_the_entropy_coefficient_that_it_has_learned(tmp_path):
    config = to_config(compose_config(["experiment=navigation", "encoder=blind", "algo=sac", "env.num_envs=2"]))

    def trainer(*checkpoint):
        env = make_task(config.env).make_encoded(training_keys(config), config.encoder, None)
        return make_trainer(config, WatchEpisodes(env), *checkpoint)

    before = trainer()
    before.model.log_ent_coef.data.fill_(-4.0)
    before.save(tmp_path)
    model = trainer(tmp_path, 1000).model
    assert model.log_ent_coef.item() == -4.0
    assert model.ent_coef_optimizer.param_groups[0]["params"][0] is model.log_ent_coef


@pytest.mark.slow
def test_the_jobs_of_a_sweep_are_runs_like_any_other(here, capsys):
    """Their folder has a name that means something to Hydra; the pattern matches a broken run and a file too."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        sweep = ["experiment=navigation", *SMALL_PPO, *RANDOM, "evaluation.clips=0"]
        assert train.main(["-m", *sweep, "seed=0,1", "algo.gamma=0.9", "hydra.sweep.dir='a=b'"]) == 0
        assert torch.get_num_threads() == 2, "the next job would encode on fewer threads"
    finally:
        torch.set_num_threads(threads)
    runs = [Run(path) for path in sorted(Path("a=b").glob("efficientnet_b0-seed*"))]
    assert [run.config().seed for run in runs] == [0, 1]
    assert train.main([f"resume={runs[1].folder}", "algo.total_steps=320"]) == 0
    assert runs[1].state()["steps"] == 320

    (here / "a=b" / "broken").mkdir()
    capsys.readouterr()
    assert evaluate.main([*sorted(str(path) for path in Path("a=b").iterdir()), "episodes=4"]) == 0
    assert "defm-rl evaluate:" not in capsys.readouterr().err
    for run in runs:
        assert (run.folder / "evaluations" / "2000000-4" / "ideal" / "metrics.json").exists()


def test_an_interruption_before_training_does_not_speak_of_a_checkpoint(here, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("defm_rl.experiments.train.make_trainer", interrupted)
    assert train.main(["experiment=navigation", "encoder=blind", *SMALL_PPO, RUN]) == 130
    assert "checkpoint is kept" not in (output := capsys.readouterr().out)
    assert "nothing to go on from" in output
    assert train.main(["resume=run"]) == 2


@pytest.mark.slow
def test_an_interruption_before_the_first_checkpoint_writes_one(here, monkeypatch, capsys):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PPO, "train", interrupted)
        assert train.main(["experiment=navigation", "encoder=blind", *SMALL_PPO, RUN, "evaluation.clips=0"]) == 130
    assert "defm-rl train resume=run" in capsys.readouterr().out
    assert Run(Path("run")).state()["steps"] == 64
    assert train.main(["resume=run"]) == 0
    assert Run(Path("run")).state()["steps"] >= 256


@pytest.mark.parametrize("left", [("checkpoint.new", "checkpoint.old"), ("checkpoint.new",), ("checkpoint.old",)])
def test_a_run_that_was_killed_between_two_checkpoints_has_one(here, left):
    run = Run(here)

    def save(steps):
        run.save_checkpoint(lambda folder: (folder / "model").write_text(str(steps)), {"steps": steps})

    save(1)
    (here / "checkpoint").rename(here / left[0])
    for name in left[1:]:
        shutil.copytree(here / left[0], here / name)
    assert run.state()["steps"] == 1
    assert (run.checkpoint / "model").read_text() == "1"
    save(2)
    assert run.state()["steps"] == 2
    assert {path.name for path in here.glob("checkpoint*")} == {"checkpoint", "checkpoint.old"}


@pytest.mark.slow
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


@pytest.mark.slow
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
    error = capsys.readouterr().err
    assert error.startswith("defm-rl train: encoder.weights: ")
    assert "hf download" in error
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
        ("env.level=boxs", "env: .*did you mean 'boxes'"),
        ("env.id=PoleEnv-v0", "env.id=PoleEnv-v0: env=navigation is .*env=gymnasium env.id=PoleEnv-v0"),
        ("env.renderer=vulkan", "egl"),
        ("env.num_envs=0", "env.num_envs must be at least 1, got 0"),
        ("seed=-1", "seed must be at least 0"),
        ("seed=0,-1", "seed must be at least 0"),
        ("seed=99999999999", "seed must be less than"),
        ("logger.mode=offlin", "logger.mode=offlin .*did you mean 'offline'"),
        ("evaluation.first_layout=2147483648", "first_layout must lie from 0"),
        ("env.sensor=sterio", "did you mean 'stereo'"),
        ("encoder.cameras=[dept]", "depth"),
        ("algo.observations=[stat]", "did you mean 'state'"),
        ("encoder.features=[P9]", "P3"),
        ("encoder.pool=max", "columns"),
        ("encoder.name=defm_resnet19", "defm_resnet18"),
        ("encoder.weights=/nowhere.pth", "encoder.weights: .*does not exist"),
        ("encoder.trainable=[layer9]", "encoder: .*stem"),
        ("encoder.trainable=al", "did you mean 'all'"),
        ("algo=distillation", "teacher=RUN"),
        ("encoder.pool=attention", "can be trained"),
        ("encoder.grid=[2]", "grid must be"),
        ("encoder=cnn", "at least 36x36 pixels"),
    ],
)
def test_a_setting_that_cannot_be_ends_with_a_message(here, capsys, override, message):
    flags = ["-m"] if "," in override and "[" not in override else []
    algo = SMALL_TASK if override.startswith("algo=") else SMALL_PPO
    assert train.main([*flags, "experiment=navigation", *algo, *RANDOM, override]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert "Traceback" not in error
    assert not list(here.iterdir()), "a folder was made"


def test_settings_are_checked_before_weights_are_fetched(here, no_hub, capsys):
    wrong = ["encoder=efficientnet_b0", "encoder.weights=hub", "encoder.trainable=[layer9]"]
    assert train.main(["experiment=navigation", *SMALL_PPO, *wrong]) == 2
    assert "layer9" in capsys.readouterr().err


@pytest.mark.parametrize("spelling", ["all", "[all]", "none", "head", "[head]"])
def test_what_is_trained_can_be_a_word_or_a_list(spelling):
    (composed,) = check_overrides(["experiment=navigation", f"encoder.trainable={spelling}"])
    assert to_config(composed).encoder.trainable == ([] if spelling == "none" else [spelling.strip("[]")])


@pytest.mark.parametrize("command", [evaluate, gap])
def test_help_says_which_keys_there_are(capsys, command):
    assert command.main(["--help"]) == 0
    output = capsys.readouterr().out
    assert output.startswith("usage: defm-rl ")
    assert "first_layout=2000000" in output


def records(file: Path) -> list[wandb_internal_pb2.Record]:
    """What a Weights & Biases run wrote offline: blocks of 32 KiB behind a header of 7 bytes, as in LevelDB's logs."""
    data, position, parts, found = file.read_bytes(), 7, b"", []
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # the whole of a record, or its last part
            found.append(wandb_internal_pb2.Record.FromString(parts))
            parts = b""
    return found


@pytest.mark.slow
def test_weights_and_biases_goes_back_to_the_checkpoint_that_is_gone_on_from(run, monkeypatch, tmp_path_factory):
    """Offline; what a server makes of it is not seen here."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    with monkeypatch.context() as elsewhere:  # where its process began, and finds relative paths
        elsewhere.chdir(tmp_path_factory.mktemp("elsewhere"))
        wandb.init(mode="offline").finish()
    offline = ["logger=wandb", "logger.mode=offline", "evaluation.clips=1"]
    assert train.main(["resume=run", "algo.total_steps=512", "checkpoint_every=192", *offline]) == 0
    shutil.rmtree(run.checkpoint)
    (run.folder / "checkpoint.old").rename(run.checkpoint)
    kept = run.state()["steps"]
    assert 256 < kept < 512
    # Elsewhere: W&B names folders by the second, and this test is faster than anyone who goes on with a run.
    (run.folder / "wandb").rename(run.folder / "wandb-before")
    assert train.main(["resume=run"]) == 0
    before, after = (
        records(file) for name in ("wandb-before", "wandb") for file in run.folder.glob(f"{name}/offline-run-*/*.wandb")
    )
    (first,), (second,) = ([record.run for record in part if record.HasField("run")][:1] for part in (before, after))
    assert second.run_id == second.branch_point.run == first.run_id
    assert (second.branch_point.metric, second.branch_point.value) == ("_step", kept)
    logged = [{record.history.step.num for record in part if record.HasField("history")} for part in (before, after)]
    assert max(logged[0]) > kept < min(logged[1])
    assert first.run_group == second.run_group == tracking.group_name(run.config())
    assert list(first.tags) == ["navigation", "Navigation-v0, boxes", "blind", "ppo"]
    settings = {item.key: json.loads(item.value_json) for item in first.config.update}
    assert (settings["algo"]["n_steps"], settings["seed"], len(settings["digest"])) == (16, 0, 12)
    curves = {
        item.nested_key[0] if item.nested_key else item.key
        for r in before
        if r.HasField("history")
        for item in r.history.item
    }
    assert {"rollout/success_rate", "train/loss", "evaluation/episodes"} <= curves
    (artifact,) = (record.artifact for record in before if record.HasField("artifact"))
    assert (artifact.type, artifact.name) == ("model", f"policy-{first.run_id}")
    assert {entry.path for entry in artifact.manifest.contents} >= {"checkpoint/model.zip", "config.yaml"}
    assert [int(row["steps"]) for row in history(run)] == list(range(64, 513, 64))


@pytest.mark.slow
def test_a_server_that_cannot_take_a_run_back_gets_another(run, monkeypatch, capsys):
    asked = []

    class Recorded:
        id, summary = "second", {}

        def log(self, figures, step):
            pass

        def finish(self):
            pass

        def log_artifact(self, artifact):
            pass

    def init(**settings):
        asked.append(settings.get("resume_from") or settings.get("id"))
        if "resume_from" in settings:
            raise wandb.Error("rewinding is not enabled")
        return Recorded()

    monkeypatch.setattr(wandb, "init", init)
    state = {**run.state(), "wandb_id": "first", "ended": False}
    (run.checkpoint / "state.json").write_text(json.dumps(state))
    assert train.main(["resume=run", "logger=wandb", "algo.total_steps=320"]) == 0
    assert asked == ["first?_step=256", None]
    assert "rewinding is not enabled" in capsys.readouterr().out
    assert run.state()["wandb_id"] == "second"


@pytest.mark.slow
def test_weights_and_biases_gets_the_evaluation_and_goes_on_with_one_run(here, monkeypatch):
    started, given = [], []

    class Recorded:
        def __init__(self, **settings):
            self.id = settings["id"] or "new"
            self.resume, self.summary, self.finished = settings["resume"], {}, False
            started.append(self)

        def log(self, figures, step):
            assert not self.finished

        def log_artifact(self, artifact):
            assert not self.finished
            given.append((artifact.name, artifact.type, sorted(artifact.manifest.entries)))

        def finish(self):
            self.finished = True

    monkeypatch.setattr(wandb, "init", Recorded)
    trained(*SMALL_PPO, RUN, "logger=wandb")
    assert train.main(["resume=run", "algo.total_steps=320"]) == 0
    assert [(run.id, run.resume, run.finished) for run in started] == [("new", "allow", True)] * 2
    for run in started:
        assert run.summary["evaluation"]["success_rate"]["episodes"] == 6
    files = ["checkpoint/model.zip", "checkpoint/state.json", "config.yaml", "metrics.json"]
    assert given == [("policy-new", "model", files)] * 2


@pytest.mark.parametrize("fails", ["log", "log_artifact", "finish"])
@pytest.mark.sweep(3)
def test_weights_and_biases_never_ends_a_training(run, monkeypatch, capsys, fails):
    class Failing:
        id, summary = "first", {}

        def __getattr__(self, name):
            def act(*_, **__):
                if name == fails:
                    raise wandb.errors.CommError("nobody there")

            return act

    monkeypatch.setattr(wandb, "init", lambda **_: Failing())
    assert train.main(["resume=run", "logger=wandb", "algo.total_steps=320"]) == 0
    assert run.state()["steps"] == 320
    assert capsys.readouterr().out.count("nobody there") == 1


def test_without_a_server_the_run_is_written_for_later(run, monkeypatch, capsys):
    asked = []

    def init(mode, group, tags, **settings):
        asked.append(mode)
        if mode != "offline":
            raise wandb.errors.CommError("no route to host")
        assert group.startswith("navigation, blind, ")
        assert tags == ["navigation", "Navigation-v0, boxes", "blind", "ppo", "mine"]
        return types.SimpleNamespace(id="later", summary={}, log=print, log_artifact=print, finish=print)

    monkeypatch.setattr(wandb, "init", init)
    assert train.main(["resume=run", "logger=wandb", "logger.tags=[mine]", "algo.total_steps=320"]) == 0
    assert asked == [None, "offline"]
    assert "sent by `wandb sync` later" in capsys.readouterr().out


def test_nobody_logged_in_is_said(run, monkeypatch, capsys):
    def init(**_):
        raise wandb.errors.UsageError("No API key configured")

    monkeypatch.setattr(wandb, "init", init)
    assert train.main(["resume=run", "logger=wandb", "algo.total_steps=320"]) == 2
    assert "No API key configured. Without an account there is logger.mode=offline" in capsys.readouterr().err
