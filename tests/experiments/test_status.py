"""A run has an identity, and its folder says where it stands, whatever became of its process."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from defm_rl.experiments import status as module
from defm_rl.experiments.config import (
    _SCHEMAS,
    Config,
    EncoderConfig,
    LoggerConfig,
    NavigationEnvConfig,
    PPOConfig,
    compose_config,
    option_of,
)
from defm_rl.experiments.identity import run_digest, run_name
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.status import AlreadyRunningError, State, Status, attended, read_status


@pytest.fixture(scope="module")
def config():
    return to_config(compose_config(["experiment=navigation", "encoder=resnet18"]))


def change(config, key, value):
    group, _, name = key.partition(".")
    if not name:
        return dataclasses.replace(config, **{key: value})
    return dataclasses.replace(config, **{group: dataclasses.replace(getattr(config, group), **{name: value})})


@pytest.mark.parametrize(
    ("key", "value", "same"),
    [
        ("seed", 1, False),
        ("algo.total_steps", 3, False),
        ("env.sensor", "stereo", False),
        ("evaluation.episodes", 7, False),
        ("logger.wandb", True, True),
        ("evaluation.clips", 0, True),
        ("checkpoint_every", 10, True),
        ("experiment", "mine", True),
        ("resume", "somewhere", True),
    ],
)
def test_identity_is_what_determines_results(config, key, value, same):
    assert (run_digest(change(config, key, value)) == run_digest(config)) is same


def test_identity_does_not_depend_on_how_the_configuration_was_written(config):
    spelled = ["experiment=navigation", "encoder=resnet18", "encoder.trainable=none", "algo=ppo"]
    assert run_digest(to_config(compose_config(spelled))) == run_digest(config)
    assert run_name(config) == f"resnet18-seed0-{run_digest(config)}"


DIGESTS = {
    **{"navigation": "95b4e8804059", "locomotion": "c64bcbe066ee", "manipulation": "ea77ba036827"},
    **{"mjlab_lift": "59331d62fc52", "mjlab_go1": "a9f7a180e979", "mjlab_g1": "9dde16ec4743"},
    **{"isaaclab_navigation": "023c117d7ea3", "gymnasium": "452e03e4c6c9"},
    **{"ppo": "95b4e8804059", "sac": "f43f6cd2d217", "rsl_ppo": "ebbf4f7c47dc", "distillation": "35ab7f6c680e"},
}


def test_identities_are_those_of_older_versions():
    """Where a setting is new: is it in `identity._LATER`? Where a default is: runs are others, with other digests."""
    base = Config(NavigationEnvConfig(), EncoderConfig("defm"), PPOConfig(), LoggerConfig())
    options = [(group, schema) for group in ("env", "algo") for schema in _SCHEMAS[group]]
    found = {option_of(schema): run_digest(change(base, group, schema())) for group, schema in options}
    assert found == DIGESTS


def test_files_count_by_what_is_in_them(config, tmp_path):
    def digest_of(name, content):
        (tmp_path / name).write_bytes(content)
        return run_digest(change(config, "encoder.weights", str(tmp_path / name)))

    assert digest_of("a.pth", b"1") == digest_of("b.pth", b"1") != digest_of("c.pth", b"2")


def test_a_teacher_counts_by_its_checkpoint(config, tmp_path):
    def digest_of(name, weights):
        run = Run(tmp_path / name)
        run.save_checkpoint(lambda folder: (folder / "model.pt").write_bytes(weights), {"steps": 1})
        return run_digest(change(config, "teacher", str(run.folder)))

    assert digest_of("a", b"1") == digest_of("b", b"1") != digest_of("c", b"2")


def test_a_run_says_how_it_ended(tmp_path):
    assert read_status(tmp_path) is None
    run = Run(tmp_path)
    with attended(run, "abc"):
        running = read_status(tmp_path)
    assert (running.state, running.pid, running.host) == (State.RUNNING, os.getpid(), socket.gethostname())
    finished = read_status(tmp_path)
    assert (finished.state, finished.reason, finished.digest) == (State.FINISHED, "", "abc")
    for error, state, reason in (
        (KeyboardInterrupt(), State.INTERRUPTED, "asked to end"),
        (RuntimeError("out of memory\nand more"), State.FAILED, "RuntimeError: out of memory"),
    ):
        with pytest.raises(type(error)), attended(run, "abc"):
            raise error
        ended = read_status(tmp_path)
        assert (ended.state, ended.reason) == (state, reason)
        assert ended.wall_s >= finished.wall_s


ATTENDED = """
import sys, time
from pathlib import Path
from defm_rl.experiments.runs import Run
from defm_rl.experiments.status import attended
with attended(Run(Path(sys.argv[1])), "abc"):
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_run_is_another_processs_until_that_is_killed(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", ATTENDED, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while read_status(tmp_path) is None:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with pytest.raises(AlreadyRunningError, match=f"process {process.pid}"), attended(Run(tmp_path), "abc"):
            pass
        assert read_status(tmp_path).state is State.RUNNING
        process.send_signal(signal.SIGKILL)
        process.wait()
    finally:
        process.kill()
    killed = read_status(tmp_path)
    assert (killed.state, killed.digest) == (State.INTERRUPTED, "abc")
    assert f"process {process.pid} on {socket.gethostname()} ended without a word" in killed.reason
    with attended(Run(tmp_path), "abc"):
        pass
    assert read_status(tmp_path).state is State.FINISHED


def write(folder: Path, **values) -> None:
    status = Status(State.RUNNING, digest="abc", pid=os.getpid(), started=time.time() - 3600, **values)
    (folder / "status.json").write_text(json.dumps(dataclasses.asdict(status)))


def test_another_hosts_process_lives_as_long_as_it_gives_signs_of_life(tmp_path):
    write(tmp_path, host="another")
    assert read_status(tmp_path).state is State.RUNNING
    os.utime(tmp_path / "status.json", (time.time() - 400, time.time() - 400))
    gone = read_status(tmp_path)
    assert gone.state is State.INTERRUPTED
    assert gone.wall_s == pytest.approx(3200, abs=5)


def test_another_process_with_the_same_number_is_not_taken_for_it(tmp_path):
    write(tmp_path, host=socket.gethostname(), born="1")
    assert read_status(tmp_path).state is State.INTERRUPTED


def test_a_sign_of_life_is_given(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_BEAT_S", 0.01)
    file = tmp_path / "status.json"
    with attended(Run(tmp_path), "abc"):
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 10
        while file.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_runs_that_are_older_than_their_status_are_known_by_their_files(run):
    assert read_status(run.folder).state is State.FINISHED
    (run.folder / "status.json").unlink()
    assert read_status(run.folder).state is State.FINISHED
    (run.folder / "metrics.json").unlink()
    assert read_status(run.folder).state is State.INTERRUPTED
