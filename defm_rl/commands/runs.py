"""`defm-rl runs [FOLDER...] [--json]`: the runs in a folder (default: runs): where each stands, success and cost."""

import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from defm_rl.experiments.outcomes import Outcome, duration, outcomes_below
from defm_rl.experiments.status import State

_HEADER = ("run", "state", "success", "95 % interval", "reward", "steps", "time")
_LEFT = (0, 1)  # columns of text


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"usage: defm-rl runs [FOLDER...] [--json]\n\n{__doc__}\n")
        return 0
    folders = [Path(argument) for argument in arguments if argument != "--json"] or [Path("runs")]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing:
        sys.stderr.write(f"defm-rl runs: there is no folder {', '.join(missing)}: name one with runs in it.\n")
        return 2
    outcomes = outcomes_below(folders)
    if "--json" in arguments:
        sys.stdout.write(json.dumps([_plain(outcome) for outcome in outcomes], indent=2) + "\n")
    else:
        sys.stdout.write(_table(outcomes))
    return 0


def _plain(outcome: Outcome) -> dict[str, Any]:
    return {
        "run": str(outcome.run.folder),
        "state": outcome.status.state.value,
        "reason": outcome.status.reason,
        "digest": outcome.status.digest,
        "success_rate": outcome.evaluation.get("success_rate"),
        "reward": outcome.evaluation.get("reward"),
        "steps": outcome.steps,
        "total_steps": outcome.total_steps,
        "wall_s": outcome.wall_s,
        "peak_memory_mb": outcome.peak_memory_mb,
    }


def _table(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return "There are no runs in it.\n"
    rows = [_row(outcome) for outcome in outcomes]
    widths = [max(map(len, column)) for column in zip(_HEADER, *rows, strict=True)]
    lines = []
    for cells, outcome in zip((_HEADER, *rows), (None, *outcomes), strict=True):
        aligned = [
            cell.ljust(width) if index in _LEFT else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        lines.append("  ".join(aligned).rstrip())
        if outcome is not None and outcome.status.reason:
            lines.append(f"    {outcome.status.reason}")
    counts = Counter(outcome.status.state for outcome in outcomes)
    states = ", ".join(f"{counts[state]} {state.value}" for state in State if counts[state])
    seconds = sum(outcome.wall_s or 0.0 for outcome in outcomes)
    lines += ["", f"{len(outcomes)} runs: {states}; {duration(seconds)} altogether."]
    if counts[State.INTERRUPTED] or counts[State.FAILED]:
        lines.append("Go on with one: defm-rl train resume=RUN")
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome) -> tuple[str, ...]:
    success, reward = (outcome.evaluation.get(name) for name in ("success_rate", "reward"))
    steps = f"{outcome.steps:,}" + (f" of {outcome.total_steps:,}" if outcome.total_steps else "")
    return (
        os.path.relpath(outcome.run.folder),
        outcome.status.state.value,
        "" if success is None else f"{success['mean']:.1%}",
        "" if success is None else f"{success['low']:.1%} to {success['high']:.1%}",
        "" if reward is None else f"{reward['mean']:.4g}",
        steps,
        "" if outcome.wall_s is None else duration(outcome.wall_s),
    )
