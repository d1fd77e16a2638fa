"""Learning curves."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")  # files only: no window, on machines without a display too

import matplotlib.pyplot as plt
import numpy as np

from defm_rl.experiments import history
from defm_rl.experiments.runs import Run

COLOURS = ("#0b6e99", "#c8553d", "#588b49", "#7a5195", "#8a6d3b", "#444444")


def read_history(run: Run) -> dict[str, np.ndarray]:
    """The columns of a run's history that have figures, NaN in rows without; nothing where no episode ended in it."""
    rows = history.read(run.folder / "history.csv")
    known = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    if "episode_reward" not in known and "success_rate" not in known:
        return {}
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in known}


def learning_curves(groups: Mapping[str, Sequence[Run]], path: Path) -> None:
    """Success over environment steps, or reward where a task knows of no success.

    One line per run, one colour and one label per group.

    There is no picture where there is nothing to show.

    Args:
        groups: Runs with a history, by label. An empty label is not written.
        path: The picture to write.
    """
    histories = {label: list(filter(None, map(read_history, runs))) for label, runs in groups.items()}
    if not any(histories.values()):
        path.unlink(missing_ok=True)
        return
    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=150)
    succeeds = all("success_rate" in columns for found in histories.values() for columns in found)
    for (label, drawn), colour in zip(histories.items(), itertools.cycle(COLOURS), strict=False):
        ends = []
        for columns in drawn:
            steps = columns["steps"] / 1000
            reached = 100 * columns["success_rate"] if succeeds else columns["episode_reward"]
            axes.plot(steps, reached, color=colour, linewidth=1.8, alpha=0.9)
            ends.append((steps[-1], reached[-1]))
        if label and ends:
            # Labels at the lines' ends need no legend to be looked up in.
            axes.annotate(
                label, np.max(ends, axis=0), (6, 0), textcoords="offset points", color=colour, va="center", fontsize=9
            )
    axes.set(xlabel="environment steps (thousands)", ylabel="reward of the last 200 episodes")
    if succeeds:
        axes.set(ylabel="success of the last 200 episodes (%)", ylim=(-2, 102))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def losses(curve: Sequence[Mapping[str, float]], trained: Sequence[str], path: Path) -> None:
    """Losses of an adaptation over its steps: a line for each camera, dashed where nothing was trained on it.

    Args:
        curve: Rows of step, seconds, and a loss for each camera.
        trained: The cameras that were trained on.
        path: The picture to write.
    """
    figure, axes = plt.subplots(figsize=(6.4, 3.6), dpi=150)
    steps = [row["step"] for row in curve]
    names = [name for name in curve[0] if name not in ("step", "seconds")]
    for name, colour in zip(names, itertools.cycle(COLOURS), strict=False):
        style = "-" if name in trained else "--"
        axes.plot(steps, [row[name] for row in curve], style, color=colour, linewidth=1.8, alpha=0.9, label=name)
    axes.set(xlabel="steps", ylabel="loss on held-out scenes", ylim=(0, None))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)
