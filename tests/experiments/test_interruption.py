"""However often a training is asked to end, what it did is kept."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from defm_rl.experiments.interruption import Interruption
from defm_rl.experiments.runs import Run

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
