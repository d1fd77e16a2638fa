"""Runs side by side on one machine: each has cores, and a GPU, of its own."""

import contextlib
import fcntl
import hashlib
import itertools
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import torch

_logger = logging.getLogger(__name__)

_every: list[int] = []  # the cores that this process had before it took its first place
_gpus: list[str | None] = []  # and the GPUs
_last: list[int] = []  # the place that it had last, whose GPU it may still use


def cores() -> list[int]:
    """The cores that this process may run on."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def places(launcher: Any) -> int:
    """How many runs one of Hydra's launchers, by its configuration, has on one machine at a time.

    Slurm and others that give each run cores and GPUs by themselves count as one.
    """
    name = str(launcher.get("_target_")).rpartition(".")[2]
    every = len(cores())
    if name == "JoblibLauncher":
        return int(launcher.n_jobs if launcher.n_jobs > 0 else max(every + 1 + launcher.n_jobs, 1))
    if name == "RayLauncher":
        return max(int((launcher.init.get("num_cpus") or every) / (launcher.remote.get("num_cpus") or 1)), 1)
    if name == "LocalLauncher":
        return max(every // (launcher.cpus_per_task or 1), 1)
    return 1


@contextlib.contextmanager
def own_place(count: int, sweep: Path) -> Iterator[None]:
    """Gives this process its share of the machine's cores, as many threads, and one GPU, for the run inside.

    Args:
        count: Runs side by side. Where all their places are taken, by those of a driver that was killed or by more
            processes than there are places, it waits for one.
        sweep: The folder of the sweep whose runs share the machine.
    """
    if count < 2:
        yield
        return
    key = hashlib.sha256(str(sweep.resolve()).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"defm-rl-{os.getuid()}" / f"{key}-{count}"
    folder.mkdir(parents=True, exist_ok=True)
    _every[:] = _every or cores()
    order = [*_last, *(place for place in range(count) if place not in _last)]
    for attempt, place in enumerate(itertools.cycle(order)):
        lock = _locked(folder / str(place))
        if lock is not None:
            with lock:
                _last[:] = [place]
                _settle(_share(_every, place, count), place)
                yield
            return
        if attempt == count:
            _logger.info("All %d places on this machine are taken: this run waits for one.", count)
        if attempt % count == count - 1:
            time.sleep(0.5)


def _locked(file: Path) -> IO[str] | None:
    """The file, locked for as long as it is open, at most until the process ends; None where it is taken."""
    opened = file.open("w")
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        opened.close()
        return None
    return opened


def _share(every: Sequence[int], place: int, count: int) -> list[int]:
    """The cores of a place; places share cores only where there are more of them."""
    if count > len(every):
        return [every[place % len(every)]]
    return list(every[place * len(every) // count : (place + 1) * len(every) // count])


def _settle(share: Sequence[int], place: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        for thread in Path("/proc/self/task").iterdir():  # those that libraries have begun, too
            os.sched_setaffinity(int(thread.name), share)
    torch.set_num_threads(len(share))
    os.environ["OMP_NUM_THREADS"] = str(len(share))  # for processes that this one starts
    given = _gpus[0] if _gpus else os.environ.get("CUDA_VISIBLE_DEVICES")
    _gpus[:] = [given]
    gpus = given.split(",") if given else [str(number) for number in range(torch.cuda.device_count())]
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[place % len(gpus)]
