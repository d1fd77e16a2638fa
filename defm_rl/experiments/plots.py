"""Learning curves."""

import csv
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, on machines without a display too

import matplotlib.pyplot as plt
import numpy as np

from defm_rl.experiments.runs import Run

COLOURS = ("#0b6e99", "#c8553d", "#588b49", "#7a5195", "#8a6d3b", "#444444")


def read_history(run: Run) -> dict[str, np.ndarray]:
    """The columns of a run's history."""
    with (run.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in (rows[0] if rows else ())}


def learning_curve(runs: Sequence[Run], path: Path, labels: Sequence[str] | None = None) -> None:
    """Success over environment steps, one line per run.

    Args:
        runs: Runs with a history.
        path: The picture to write.
        labels: One per run, written at the end of its line; none for a single run.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=150)
    for index, run in enumerate(runs):
        history = read_history(run)
        if not history:
            continue
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(history["steps"] / 1000, 100 * history["success_rate"], color=colour, linewidth=1.8)
        if labels:
            end = (history["steps"][-1] / 1000, 100 * history["success_rate"][-1])
            axes.annotate(labels[index], end, (6, 0), textcoords="offset points", color=colour, va="center", fontsize=9)
    axes.set(xlabel="environment steps (thousands)", ylabel="success of the last 200 episodes (%)", ylim=(-2, 102))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
