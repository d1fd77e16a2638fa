"""What became of runs: where each stands, how well it does and what it cost, from the few small files that say it."""

import contextlib
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defm_rl.experiments import history
from defm_rl.experiments.runs import Run, runs_below
from defm_rl.experiments.status import State, Status, read_status

_NUMBER = re.compile(r"^  total_steps: (\d+)$", re.MULTILINE)  # of algo, in config.yaml: parsing it takes milliseconds


@dataclass(frozen=True)
class Outcome:
    """A run, as it stands.

    Attributes:
        run: Its folder.
        status: Where it stands.
        steps: Environment steps so far.
        total_steps: That it was to do, where that can be told.
        wall_s: Seconds that its processes took, until now where it runs; None where nothing says it.
        metrics: Of its evaluation, where it is finished.
    """

    run: Run
    status: Status
    steps: int
    total_steps: int | None
    wall_s: float | None
    metrics: dict[str, Any] | None

    @property
    def evaluation(self) -> dict[str, Any]:
        """The figures of its evaluation; none where it is not finished."""
        return {} if self.metrics is None else dict(self.metrics["evaluation"])

    @property
    def peak_memory_mb(self) -> float | None:
        """The most memory that its process had, in MB (10^6 bytes); None where it was not measured."""
        return None if self.metrics is None else self.metrics["training"].get("peak_memory_mb")


def outcomes_below(folders: Sequence[Path]) -> list[Outcome]:
    """The runs in folders and in theirs, each once."""
    runs = dict.fromkeys(run for folder in folders for run in runs_below(folder))
    return [outcome(run) for run in runs]


def outcome(run: Run) -> Outcome:
    """What became of a run."""
    status = read_status(run.folder) or Status(State.INTERRUPTED, "it has not begun")
    metrics = _read_json(run.folder / "metrics.json") if status.state is State.FINISHED else None
    if metrics is not None:
        training = metrics["training"]
        return Outcome(run, status, training["steps"], None, status.wall_s or training.get("total_s"), metrics)
    rows = history.read(run.folder / "history.csv")
    steps = max((int(row["steps"]) for row in rows if row["steps"].isdigit()), default=0)
    running = time.time() - status.started if status.state is State.RUNNING else 0.0
    total = _NUMBER.search((run.folder / "config.yaml").read_text())
    return Outcome(run, status, steps, int(total[1]) if total else None, status.wall_s + running or None, None)


def duration(seconds: float) -> str:
    """As people say it: 42 s, 3.5 min, 12.1 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _read_json(path: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        content: dict[str, Any] = json.loads(path.read_text())
        return content
    return None
