"""Where a run stands: status.json in its folder, which the process that runs it keeps."""

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from filelock import FileLock

from defm_rl.encoders.weights import first_line
from defm_rl.experiments.config import ConfigError
from defm_rl.experiments.runs import Run, write_json

_logger = logging.getLogger(__name__)

_FILE = "status.json"
_BEAT_S = 15.0
_SILENT_S = 300.0  # without a beat, after which a process on another host counts as gone


class State(StrEnum):
    """Of a run."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"  # by a signal, or killed: it goes on from its checkpoint
    FAILED = "failed"


@dataclass(frozen=True)
class Status:
    """Where a run stands.

    Attributes:
        state: What it does, or how it ended.
        reason: Why it failed or was interrupted; "" otherwise.
        digest: Its identity, see `run_digest`; "" of runs that are older than it.
        host: Where its process runs, or ran.
        pid: That process.
        born: When that process began, in the kernel's ticks: another that is given its number has another.
        started: When it began, or last went on; seconds since the epoch.
        ended: When it ended; None while it runs.
        wall_s: Seconds that its processes took, all together; of one that runs, those before.
    """

    state: State
    reason: str = ""
    digest: str = ""
    host: str = ""
    pid: int = 0
    born: str = ""
    started: float = 0.0
    ended: float | None = None
    wall_s: float = 0.0


class AlreadyRunningError(ConfigError):
    """Another process is at this run."""


def read_status(folder: Path) -> Status | None:
    """Where the run in a folder stands, whatever became of its process; None where nothing has begun."""
    file = folder / _FILE
    try:
        status = Status(**json.loads(file.read_text()))
        seen = file.stat().st_mtime
    except FileNotFoundError:
        return _of_an_older_run(Run(folder))
    except (ValueError, TypeError) as error:
        return Status(State.INTERRUPTED, f"{file} cannot be read: {first_line(error)}")
    status = dataclasses.replace(status, state=State(status.state))
    if status.state is not State.RUNNING or _lives(status, seen):
        return status
    reason = f"process {status.pid} on {status.host} ended without a word, killed or out of memory"
    wall_s = status.wall_s + max(seen - status.started, 0.0)
    return dataclasses.replace(status, state=State.INTERRUPTED, reason=reason, ended=seen, wall_s=wall_s)


def _of_an_older_run(run: Run) -> Status | None:
    if (run.folder / "metrics.json").exists():
        return Status(State.FINISHED)
    return Status(State.INTERRUPTED, "it has no status.json") if run.begun else None


def _lives(status: Status, seen: float) -> bool:
    """Whether a process is still there: asked for by its number on this host, by its last sign of life on others."""
    if status.host == socket.gethostname():
        return _born(status.pid) == status.born
    return time.time() - seen < _SILENT_S


def _born(pid: int) -> str:
    """When a process began; "" where there is none, or it is a zombie. Where there is no /proc, whether it is there."""
    if Path("/proc/self/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]
    try:
        os.kill(pid, 0)
    except OSError:
        return ""
    return "there"


@contextlib.contextmanager
def attended(run: Run, digest: str) -> Iterator[None]:
    """Has status.json say how the run fares that is done inside: running, with a sign of life, then how it ended.

    Args:
        run: The run.
        digest: Its identity.

    Raises:
        AlreadyRunningError: Where another process is at it.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    started = time.time()
    with FileLock(run.folder / "status.lock"):
        former = read_status(run.folder)
        me = (socket.gethostname(), os.getpid(), _born(os.getpid()))
        if former and former.state is State.RUNNING and (former.host, former.pid, former.born) != me:
            raise AlreadyRunningError(f"{run.folder} is being run by process {former.pid} on {former.host}.")
        status = Status(State.RUNNING, "", digest, *me, started, None, former.wall_s if former else 0.0)
        _write(run, status)
    state, reason = State.FAILED, ""
    try:
        with _beating(run.folder / _FILE):
            yield
        state = State.FINISHED
    except (KeyboardInterrupt, SystemExit):
        state, reason = State.INTERRUPTED, "asked to end"
        raise
    except BaseException as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise
    finally:
        now = time.time()
        wall_s = round(status.wall_s + now - started, 1)
        try:
            _write(run, dataclasses.replace(status, state=state, reason=reason, ended=now, wall_s=wall_s))
        except OSError as error:  # as on a full disk: what it did, or why it failed, is worth more
            _logger.warning("%s could not be written (%s): the run counts as interrupted.", run.folder / _FILE, error)


def _write(run: Run, status: Status) -> None:
    write_json(run.folder / _FILE, dataclasses.asdict(status))


@contextlib.contextmanager
def _beating(file: Path) -> Iterator[None]:
    """Touches a file every few seconds: a sign of life that needs no room on a full disk."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(_BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
