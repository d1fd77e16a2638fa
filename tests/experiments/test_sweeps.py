"""A sweep goes through what it is asked for, and runs only what is not finished."""

import csv
import dataclasses
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hub_server import HubServer
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from defm_rl import cli
from defm_rl.commands import train
from defm_rl.encoders import load_encoder
from defm_rl.encoders.weights import REPOSITORY
from defm_rl.experiments import identity
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.identity import run_name
from defm_rl.experiments.interruption import INTERRUPTED
from defm_rl.experiments.overrides import axes, check_overrides, compose_many, product
from defm_rl.experiments.places import _share, cores, places
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.status import State, Status, read_status
from defm_rl.experiments.trainers.sb3 import SB3Trainer
from hydra_plugins.defm_rl_plugins.sweepers import OptunaConf

TINY = [
    *("experiment=navigation", "encoder=blind", "env.num_envs=4", "env.depth_size=[24,48]", "evaluation.episodes=2"),
    *("algo.n_steps=16", "algo.batch_size=32", "algo.n_epochs=1", "algo.total_steps=128", "evaluation.clips=0"),
]


def parsed(*overrides):
    return OverridesParser.create().parse_overrides(list(overrides))


def test_zipped_keys_go_together_and_the_rest_is_a_product():
    given = parsed("encoder=resnet18,cnn", "seed=0,1", "encoder.features=[P3],[P4]", "algo.gamma=0.9")
    jobs = product(axes(given, [["encoder", "encoder.features"]]))
    pairs = [("encoder=resnet18", "encoder.features=[P3]"), ("encoder=cnn", "encoder.features=[P4]")]
    assert jobs == [[*pair, f"seed={seed}", "algo.gamma=0.9"] for pair in pairs for seed in (0, 1)]
    assert len(product(axes(given))) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-m", "seed=0,1", "algo.gamma=0.9,0.8,0.7", "zip=[seed,algo.gamma]"], "pairs the first values"),
        (["-m", "seed=0,1", "zip=[sed,seed]"], "sed has no values. Did you mean 'seed'"),
        (["-m", "seed=0,1", "zip=seed"], r"zip=\[KEY,KEY\]"),
        (["seed=0", "algo.gamma=0.9", "zip=[seed,algo.gamma]"], "add --multirun"),
    ],
)
def test_a_zip_that_cannot_be_says_what_to_write(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert train.main([*TINY, *arguments]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_composing_many_gives_what_hydra_gives_for_each():
    jobs = [
        ["experiment=navigation", *rest]
        for rest in (
            ["encoder=resnet18", "seed=1", "encoder.features=[P4]", "env.depth_size=[24,48]"],
            ["encoder=resnet18", "seed=2", "encoder.features=[P3,P4]", "env.depth_size=[48,96]"],
            ["encoder=resnet18", "seed=1", "algo=sac", "algo.gamma=1e-1", "teacher='a b'"],
        )
    ]
    for job, composed in compose_many(jobs, compose_config):
        assert to_config(composed) == to_config(compose_config(job))


def test_a_sweep_is_checked_with_each_value_once():
    zipped = [["encoder", "encoder.features"]]
    overrides = ["experiment=navigation", "encoder=resnet18,vit_s14", "encoder.features=[P3],[P14]", "seed=0,1,2"]
    configs = check_overrides(overrides, zipped, to_config)
    assert [(config.encoder.features, config.seed) for config in configs] == [
        (["P3"], 0),
        (["P14"], 0),
        (["P3"], 1),
        (["P3"], 2),
    ]


@pytest.mark.parametrize(
    ("launcher", "expected"),
    [
        ({"_target_": "x.BasicLauncher"}, 1),
        ({"_target_": "x.SlurmLauncher", "cpus_per_task": 4}, 1),
        ({"_target_": "x.JoblibLauncher", "n_jobs": 3}, 3),
        ({"_target_": "x.JoblibLauncher", "n_jobs": -1}, len(cores())),
        ({"_target_": "x.RayLauncher", "init": {"num_cpus": 8}, "remote": {"num_cpus": 2}}, 4),
        ({"_target_": "x.LocalLauncher", "cpus_per_task": None}, len(cores())),
    ],
)
def test_how_many_runs_are_side_by_side(launcher, expected):
    assert places(OmegaConf.create(launcher)) == expected


def test_places_divide_the_cores():
    for count, every in ((2, [0, 1]), (3, range(8)), (4, [1, 3, 5, 7])):
        shares = [_share(list(every), place, count) for place in range(count)]
        assert sorted(core for share in shares for core in share) == list(every)
        assert all(shares)
    assert [_share([4, 5], place, 3) for place in range(3)] == [[4], [5], [4]]


PLACED = """
import logging, os, sys, time, torch
from pathlib import Path
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from defm_rl.experiments.places import own_place
for _ in range(2):  # a worker's runs one after the other
    with own_place(2, Path(sys.argv[1])):
        mine = sorted(os.sched_getaffinity(0)), torch.get_num_threads(), os.environ.get("CUDA_VISIBLE_DEVICES")
        time.sleep(0.1)
with own_place(2, Path(sys.argv[1])):
    print(*mine, flush=True)
    time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.skipif(len(cores()) < 2, reason="there is one core")
def test_two_runs_have_cores_and_a_gpu_each_and_the_third_waits_for_a_place(tmp_path):
    settings = {**os.environ, "TMPDIR": str(tmp_path), "CUDA_VISIBLE_DEVICES": "5,7"}
    command = [sys.executable, "-c", PLACED, str(tmp_path)]
    workers = [subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        said = sorted(worker.stdout.readline().strip() for worker in workers)
        half = len(cores()) // 2
        assert said == sorted(
            f"{share} {len(share)} {gpu}" for share, gpu in ((cores()[:half], 5), (cores()[half:], 7))
        )
        workers.append(subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True))
        assert "All 2 places on this machine are taken" in workers[2].stdout.readline()
        workers[0].send_signal(signal.SIGKILL)
        assert workers[2].stdout.readline().strip() in said
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def by_seed(folder: Path) -> dict[int, Run]:
    return {Run(path.parent).config().seed: Run(path.parent) for path in folder.glob("*/config.yaml")}


def steps(run: Run) -> list[int]:
    with (run.folder / "history.csv").open() as file:
        return [int(row["steps"]) for row in csv.DictReader(file)]


def test_a_sweep_started_again_skips_what_is_finished_and_goes_on_with_the_rest(here, monkeypatch, capsys):
    learn = SB3Trainer.learn

    def fails(trainer, total_steps, progress):
        learn(trainer, total_steps // 2, progress)
        if trainer.model.seed == 1:
            progress._save()
            raise RuntimeError("a cosmic ray")
        learn(trainer, total_steps, progress)

    sweep = ["-m", *TINY, "hydra.sweep.dir=mine"]
    with monkeypatch.context() as patch:
        patch.setattr(SB3Trainer, "learn", fails)
        assert train.main([*sweep, "seed=1,0"]) == 1
    said = capsys.readouterr().out
    assert "2 runs: 2 new." in said
    assert "failed: RuntimeError: a cosmic ray" in said
    assert "1 of 2 runs are finished." in said
    runs = by_seed(here / "mine")
    assert {seed: read_status(run.folder).state for seed, run in runs.items()} == {0: State.FINISHED, 1: State.FAILED}
    assert all(run.folder.name == run_name(run.config()) for run in runs.values())
    before = (runs[0].folder / "metrics.json").stat().st_mtime_ns

    assert train.main([*sweep, "seed=0,1", "evaluation.clips=1"]) == 0, "with a film it would be the same run"
    said = capsys.readouterr().out
    assert "2 runs: 1 finished: skipped, 1 failed: tried again." in said
    assert re.search(r"took \d+ s, \d+ s each; the rest will take about \d+ s, 1 at a time", said)
    assert "It goes on from 64 steps." in said
    assert (runs[0].folder / "metrics.json").stat().st_mtime_ns == before
    assert steps(runs[1]) == [64, 128]
    assert read_status(runs[1].folder).state is State.FINISHED


@pytest.mark.slow
def test_a_run_that_fell_back_on_random_weights_goes_on_however_often_it_is_interrupted(here, monkeypatch, capsys):
    options = [*TINY, "encoder=resnet18", "encoder.fallback=random"]

    def interrupted(config, run, overrides):
        run.save_checkpoint(lambda folder: None, {"steps": 64, "encoder": {"weights": "random"}})
        raise KeyboardInterrupt

    monkeypatch.setattr("defm_rl.experiments.train._train", interrupted)
    for said in ("1 runs: 1 new.", "1 runs: 1 interrupted: resumed."):
        assert train.main(["-m", *options, "hydra.sweep.dir=mine"]) == INTERRUPTED
        assert said in capsys.readouterr().out
    (folder,) = (here / "mine").glob("resnet18-*")
    assert folder.name.endswith(read_status(folder).digest)


def test_a_run_of_a_version_without_a_setting_is_skipped(here, monkeypatch, capsys):
    config = to_config(compose_config(TINY))
    with monkeypatch.context() as older:
        older.setattr(identity, "_NO_MATTER", (*identity._NO_MATTER, "encoder.standardize"))
        digest = identity.run_digest(config)
    run = Run(here / "mine" / run_name(config, digest))
    run.save_config(config, TINY)
    saved = run.folder / "config.yaml"
    saved.write_text(saved.read_text().replace("  standardize: true\n", ""))
    status = Status(State.FINISHED, digest=digest)
    (run.folder / "status.json").write_text(json.dumps(dataclasses.asdict(status)))
    monkeypatch.setattr(identity, "_LATER", {"encoder.standardize": True})
    assert train.main(["-m", *TINY, "hydra.sweep.dir=mine"]) == 0
    assert "1 runs: 1 finished: skipped." in capsys.readouterr().out
    changed = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, standardize=False))
    assert identity.run_digest(changed) != digest


def started(*overrides):
    return subprocess.Popen(
        [sys.executable, "-m", "defm_rl.cli", "train", "-m", *TINY, *overrides],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ended(process, timeout=400):
    try:
        output, _ = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return process.returncode, output


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["worker", "driver"])
def test_a_sweep_loses_nothing_when_a_worker_or_the_driver_is_killed(here, victim):
    overrides = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", "hydra.sweep.dir=mine"]
    overrides += ["algo.total_steps=4096", "checkpoint_every=500"]
    process = started(*overrides)
    try:
        deadline = time.monotonic() + 400
        ahead: dict[Path, int] = {}
        while not any(gap >= 128 for gap in ahead.values()):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
            found = [run for run in begun(here / "mine") if run.has_checkpoint]
            ahead = {run.folder: (steps(run) or [0])[-1] - run.state()["steps"] for run in found}
        killed = max(ahead, key=ahead.__getitem__)
        kept = Run(killed).state()["steps"]
        workers = {read_status(run.folder).pid for run in found}
        os.kill(read_status(killed).pid if victim == "worker" else process.pid, signal.SIGKILL)
        process.wait(400)  # not for the end of its output, which its workers have
    finally:
        process.kill()
    deadline = time.monotonic() + 400
    while (result := ended(started(*overrides)))[0] or "2 of 2 runs are finished" not in result[1]:
        assert victim == "driver", result[1]  # whose workers may still be at it
        assert "at it in other processes" in result[1]
        assert time.monotonic() < deadline
    for run in by_seed(here / "mine").values():
        assert steps(run) == list(range(64, 4097, 64)), "a gap or a double step"
        assert read_status(run.folder).state is State.FINISHED
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline, "a worker without a driver is left"
        time.sleep(0.1)
    if victim == "worker":
        assert json.loads((killed / "metrics.json").read_text())["training"]["resumed"][0]["steps"] >= kept


def begun(folder: Path) -> list[Run]:
    return [Run(path.parent) for path in folder.glob("*/history.csv")]


def test_what_is_not_installed_is_named_with_its_extra(here, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["train", "-m", *TINY, "hydra/sweeper=optuna", "seed=0,1"]) == 1
    assert "pip install 'defm-rl[optuna]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["seed=1"], "Nothing is searched"),
        (["seed=1,2", "hydra.sweeper.sampler=TPE"], "TPESampler"),
        (["hydra.sweeper.trial=3"], "has 0 trials"),
    ],
)
def test_a_search_that_cannot_be_says_what_to_write(here, arguments, message, capsys):
    pytest.importorskip("optuna")
    assert train.main(["-m", *TINY, "hydra/sweeper=optuna", *arguments]) == 2
    assert message in capsys.readouterr().err


LAUNCHERS = {
    "joblib": ["hydra.launcher.n_jobs=2"],
    "submitit_local": [],
    "ray": ["hydra.launcher.init.num_cpus=2", "+hydra.launcher.init.log_to_driver=false"],
}


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_goes_through_each_launcher(here, launcher, monkeypatch):
    pytest.importorskip({"submitit_local": "hydra_plugins.hydra_submitit_launcher"}.get(launcher, launcher))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with tempfile.TemporaryDirectory(prefix="sweep") as short:  # Ray's sockets are in it: their paths have a limit
        monkeypatch.setenv("TMPDIR", short)
        process = started(f"hydra/launcher={launcher}", *LAUNCHERS[launcher], "seed=0,1", "hydra.sweep.dir=mine")
        returncode, output = ended(process)
    assert returncode == 0, output
    assert "2 runs: 2 new." in output
    assert "2 of 2 runs are finished." in output
    assert {read_status(run.folder).state for run in by_seed(here / "mine").values()} == {State.FINISHED}


@pytest.mark.slow
def test_runs_side_by_side_fetch_weights_once(here, monkeypatch):
    name = "defm_efficientnet_b0"
    content = io.BytesIO()
    torch.save({"model": load_encoder(name, "random").state_dict()}, content)
    with HubServer(REPOSITORY, {f"{name}.pth": content.getvalue(), "config.json": b"{}"}) as hub:
        hub.delay_s = 3.0  # of the download, during which the other run comes to it
        for key, value in (("HF_ENDPOINT", hub.url), ("HF_HOME", str(here / "home"))):
            monkeypatch.setenv(key, value)
        monkeypatch.delenv("HF_HUB_CACHE", raising=False)
        side_by_side = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1", "hydra.sweep.dir=mine"]
        returncode, output = ended(started("encoder=efficientnet_b0", *side_by_side))
    assert returncode == 0, output
    runs = by_seed(here / "mine").values()
    assert [read_status(run.folder).state for run in runs] == [State.FINISHED] * 2
    assert len({read_status(run.folder).pid for run in runs}) == 2
    fetched = Counter(request for request in hub.requests if request.startswith("GET") and "/resolve/" in request)
    assert fetched == {f"GET /{REPOSITORY}/resolve/main/{file}": 1 for file in hub.files}


@pytest.mark.slow
def test_what_slurm_is_asked_for(here, monkeypatch):
    """An sbatch of our own keeps the script; whether Slurm runs it is not seen here."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    tools = here / "bin"
    tools.mkdir()
    for name, text in (("sbatch", 'cp "$1" "$KEPT"; exit 1'), ("srun", "exit 0"), ("sinfo", "exit 0")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    monkeypatch.setenv("KEPT", str(here / "script.sh"))
    slurm = ["cpus_per_task=4", "gpus_per_node=1", "timeout_min=240", "partition=gpu", "array_parallelism=16"]
    process = started(
        *("hydra/launcher=submitit_slurm", *(f"hydra.launcher.{setting}" for setting in slurm)),
        *("seed=0,1,2", "hydra.sweep.dir=mine"),
    )
    assert ended(process)[0] != 0
    script = (here / "script.sh").read_text()
    wanted = ["array=0-2%3", "cpus-per-task=4", "gpus-per-node=1", "time=240", "partition=gpu", "signal=USR2@120"]
    for line in (*(f"#SBATCH --{setting}" for setting in wanted), "submitit.core._submit"):
        assert line in script


@pytest.mark.slow
def test_a_search_goes_on_where_it_was(here, capsys):
    optuna = pytest.importorskip("optuna")
    search = ["-m", *TINY, "hydra/sweeper=optuna", "hydra.sweep.dir=mine"]
    space = ["algo.learning_rate=tag(log,interval(1e-4,1e-2))", "algo.n_epochs=1,2", "algo.gamma=interval(0.9,0.99)"]
    assert train.main([*search, *space, "hydra.sweeper.n_trials=2"]) == 0
    assert "0 of 2 trials are done" in capsys.readouterr().out
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    study = optuna.load_study(
        study_name="navigation", storage=JournalStorage(JournalFileBackend(str(here / "mine" / "study.log")))
    )
    left = study.ask()  # a driver was killed, whose trial was at it
    left.set_user_attr("overrides", list(study.trials[0].user_attrs["overrides"]))
    assert train.main([*search, *space, "hydra.sweeper.n_trials=4"]) == 0
    said = capsys.readouterr().out
    assert "2 of 4 trials are done, 1 were left" in said
    assert "Best of 4 trials: number" in said
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
    assert study.trials[2].value == study.trials[0].value
    found = list((here / "mine").glob("*/metrics.json"))
    assert len(found) == 3, "the trial that was left is the run of another"
    assert 1e-4 <= study.trials[3].params["algo.learning_rate"] <= 1e-2
    assert train.main([*search, "hydra.sweeper.trial=1", "seed=5"]) == 0
    assert by_seed(here / "mine")[5].config().algo.gamma == pytest.approx(study.trials[1].params["algo.gamma"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("k=int(interval(1,9))", "IntDistribution(high=9, log=False, low=1, step=1)"),
        ("k=tag(log,interval(0.1,9))", "FloatDistribution(high=9.0, log=True, low=0.1, step=None)"),
        ("k=range(1,8,3)", "IntDistribution(high=7, log=False, low=1, step=3)"),
        ("k=range(0.5,2)", "CategoricalDistribution(choices=(0.5, 1.5))"),
        ("k=a,b", "CategoricalDistribution(choices=('a', 'b'))"),
    ],
)
def test_what_a_search_draws_from(override, expected):
    pytest.importorskip("optuna")
    from defm_rl.experiments.searching import distribution

    assert str(distribution(*parsed(override))) == expected


def test_a_trial_is_run_again_with_each_value_that_is_given(tmp_path):
    pytest.importorskip("optuna")
    from defm_rl.experiments.searching import _study, search
    from defm_rl.experiments.sweeping import save

    launched = []
    sweeper = SimpleNamespace(
        config=OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}}),
        settings={**dataclasses.asdict(OptunaConf()), "study_name": "s", "trial": 0},
        params={},
        hydra_context=SimpleNamespace(config_loader=None),
        launcher=SimpleNamespace(launch=lambda jobs, initial_job_idx: launched.extend(jobs) or []),
    )
    trial = _study(sweeper.settings, save(sweeper.config)).ask()
    trial.set_user_attr("overrides", ["algo.gamma=0.95", "seed=7"])
    search(sweeper, ["seed=0,1,2", "env.num_envs=4"])
    assert launched == [["algo.gamma=0.95", f"seed={seed}", "env.num_envs=4"] for seed in (0, 1, 2)]
    with pytest.raises(ConfigError, match="is a range to search"):
        search(sweeper, ["algo.gamma=interval(0.9,0.99)"])
