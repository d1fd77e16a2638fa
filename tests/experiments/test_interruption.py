"""However often a training is asked to end, what it did is kept."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from defm_rl.experiments import history
from defm_rl.experiments.interruption import Interruption
from defm_rl.experiments.runs import Run
from defm_rl.experiments.status import State, read_status

# A training whose checkpoints take a while, and say when they are being written.
SLOW = """
import sys, time
from pathlib import Path
from defm_rl.commands import train
from defm_rl.experiments.trainers.sb3 import SB3Trainer
save = SB3Trainer.save
def slowly(trainer, folder):
    Path(f"saving-{len(list(Path().glob('saving-*')))}").touch()
    time.sleep(0.5)
    save(trainer, folder)
SB3Trainer.save = slowly
sys.exit(train.main(sys.argv[1:]))
"""
TINY = ["experiment=navigation", "encoder=blind", "env.num_envs=4", "algo.n_steps=16", "algo.batch_size=32"]


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} has not come"
        time.sleep(0.01)


@pytest.mark.slow
def test_signals_while_a_checkpoint_is_written_lose_nothing(tmp_path):
    overrides = [*TINY, "algo.total_steps=1000000", "checkpoint_every=192", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, *overrides],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        wait_for(tmp_path / "saving-0")  # a checkpoint that is due
        process.send_signal(signal.SIGINT)
        wait_for(tmp_path / "saving-1")  # that of the interruption
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            process.send_signal(number)
            time.sleep(0.05)
        output, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Traceback" not in errors
    run = Run(tmp_path / "run")
    assert (run.checkpoint.name, run.state()["steps"]) == ("checkpoint", 192)
    assert "192 steps are kept. Go on with: defm-rl train resume=run" in output


def test_an_interruption_waits_for_what_must_be_done_whole_and_comes_once():
    done = []
    before = signal.getsignal(signal.SIGTERM)
    with Interruption() as interruption:

        def save():
            with interruption.deferred():
                signal.raise_signal(signal.SIGTERM)
                done.append("whole")

        with pytest.raises(KeyboardInterrupt):
            save()
        save()
        signal.raise_signal(signal.SIGTERM)
    assert done == ["whole", "whole"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_signals_that_are_ignored_stay_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interruption():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


# A training during a part of which no file can grow, as on a full disk.
FULL = """
import resource, sys
from defm_rl.commands import train
from defm_rl.experiments.progress import Progress
on_rollout = Progress.on_rollout
def watched(progress, steps):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (64 if 128 <= steps < 320 else unlimited, unlimited))
    on_rollout(progress, steps)
Progress.on_rollout = watched
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_ends_no_run(tmp_path):
    overrides = [*TINY, "algo.total_steps=512", "checkpoint_every=64", "hydra.run.dir=run", "evaluation.clips=0"]
    process = subprocess.run(
        [sys.executable, "-c", FULL, *overrides, "evaluation.episodes=2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert "No checkpoint at 128 steps" in process.stdout
    assert "history.csv cannot be written" in process.stdout
    run = Run(tmp_path / "run")
    assert [int(row["steps"]) for row in history.read(run.folder / "history.csv")] == list(range(64, 513, 64))
    assert run.state()["steps"] == 512
    assert read_status(run.folder).state is State.FINISHED
    assert not list(run.folder.glob("checkpoint.new"))
