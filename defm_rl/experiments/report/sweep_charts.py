"""The charts of a sweep's page, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from defm_rl.experiments import plots
from defm_rl.experiments.report.charts import COLOURS, MARKERS, legend_above, measure_name, svg, training_axes
from defm_rl.experiments.report.sweep import Group

_GRID = 200  # points of a curve
_LINES = ("-", "--", ":")  # beyond as many settings as there are colours

Setting = Mapping[str, Any]


def styles(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """A look for each setting, the same in all charts of a page."""
    return {
        name: {
            "color": COLOURS[index % len(COLOURS)],
            "marker": MARKERS[index % len(MARKERS)],
            "linestyle": _LINES[index // len(COLOURS) % len(_LINES)],
        }
        for index, name in enumerate(names)
    }


def intervals(settings: Sequence[Setting], measure: str, looks: Mapping[str, dict[str, Any]]) -> str | None:
    """The interquartile mean of each setting with its interval, and every run as a dot."""
    known = [setting for setting in settings if setting["iqm"]]
    if not known:
        return None

    def draw(axes: Axes) -> None:
        for row, setting in enumerate(known):
            look, iqm = looks[setting["name"]], setting["iqm"]
            axes.plot(
                setting["scores"], [row] * len(setting["scores"]), "o", color=look["color"], ms=4, alpha=0.35, mew=0
            )
            if iqm["low"] is not None:
                axes.plot([iqm["low"], iqm["high"]], [row, row], color=look["color"], lw=2.2, solid_capstyle="butt")
            axes.plot(iqm["value"], row, look["marker"], color=look["color"], ms=8, mec="white", mew=0.8)
        axes.set_yticks(range(len(known)), [setting["name"] for setting in known])
        axes.set_ylim(len(known) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(measure_name(measure))
        _share_axis(axes, [value for setting in known for value in setting["scores"]], "x")

    return svg(draw, (7.6, 0.8 + 0.36 * len(known)), "intervals")


def profiles(settings: Sequence[Setting], measure: str, looks: Mapping[str, dict[str, Any]]) -> str | None:
    """Share of runs above each score, with pointwise intervals."""
    known = [setting for setting in settings if setting["profile"]]
    if not known:
        return None

    def draw(axes: Axes) -> None:
        for setting in known:
            look, profile = looks[setting["name"]], setting["profile"]
            axes.step(
                profile["thresholds"], profile["shares"], where="post", color=look["color"], lw=1.8,
                linestyle=look["linestyle"], label=setting["name"],
            )  # fmt: skip
            if profile["low"] is not None:
                ends = (profile["low"], profile["high"])
                axes.fill_between(profile["thresholds"], *ends, step="post", color=look["color"], alpha=0.12, lw=0)
        thresholds = known[0]["profile"]["thresholds"]
        axes.set(xlim=(thresholds[0], thresholds[-1]), ylim=(0, 1.03), ylabel="share of runs")
        axes.set_xlabel(f"{measure_name(measure)} above")
        legend_above(axes)

    return svg(draw, (5.6, 3.4), "profile")


def curves(groups: Sequence[Group], looks: Mapping[str, dict[str, Any]]) -> str | None:
    """The training of each setting: the mean of its seeds, in a band from the lowest to the highest of them."""
    histories = {group.name: [plots.read_history(outcome.run) for _, outcome in group.runs] for group in groups}
    known = {name: found for name, runs in histories.items() if (found := [history for history in runs if history])}
    if not known:
        return None
    succeeds = all("success_rate" in history for runs in known.values() for history in runs)
    column = "success_rate" if succeeds else "episode_reward"

    def draw(axes: Axes) -> None:
        for name, runs in known.items():
            steps, values = _on_one_grid([(history["steps"], history[column]) for history in runs])
            look = looks[name]
            mean = np.ma.masked_invalid(values).mean(axis=0)
            low, high = (np.ma.masked_invalid(values).min(axis=0), np.ma.masked_invalid(values).max(axis=0))
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.16, lw=0)
            axes.plot(steps, mean, color=look["color"], lw=1.8, linestyle=look["linestyle"], label=name)
        training_axes(axes, succeeds=succeeds)

    return svg(draw, (5.6, 3.4), "curves")


def cost(settings: Sequence[Setting], measure: str, looks: Mapping[str, dict[str, Any]]) -> str | None:
    """What is reached against the time that a run takes: a dot for each run, a marker for each setting."""
    known = [setting for setting in settings if any(run["wall_s"] for run in setting["by_run"])]
    if not known:
        return None
    everything = [run["wall_s"] for setting in known for run in setting["by_run"] if run["wall_s"]]
    unit, seconds = next(
        (unit, size)
        for unit, size in (("hours", 3600), ("minutes", 60), ("seconds", 1))
        if max(everything) >= 2 * size or size == 1
    )

    def draw(axes: Axes) -> None:
        for setting in known:
            look = looks[setting["name"]]
            runs = [(run["wall_s"] / seconds, run["score"]) for run in setting["by_run"] if run["wall_s"]]
            times, scores = zip(*runs, strict=True)
            axes.plot(times, scores, "o", color=look["color"], ms=4, alpha=0.35, mew=0)
            reached = np.mean(scores) if setting["iqm"] is None else setting["iqm"]["value"]
            axes.plot(
                np.median(times), reached, look["marker"], color=look["color"], ms=9, mec="white", mew=0.8,
                label=setting["name"], linestyle="none",
            )  # fmt: skip
        axes.set(xlabel=f"wall time of a run ({unit})", ylabel=measure_name(measure))
        axes.set_xlim(0, 1.08 * max(everything) / seconds)
        _share_axis(axes, [run["score"] for setting in known for run in setting["by_run"]], "y")
        legend_above(axes)

    return svg(draw, (5.6, 3.4), "cost")


def _on_one_grid(runs: Sequence[tuple[NDArray[Any], NDArray[Any]]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Curves at the same steps, (points,) and (runs, points); NaN where a run has none yet, or not any more."""
    known = [(steps[~np.isnan(values)], values[~np.isnan(values)]) for steps, values in runs]
    known = [(steps, values) for steps, values in known if len(steps)]
    grid = np.linspace(min(steps[0] for steps, _ in known), max(steps[-1] for steps, _ in known), _GRID)
    return grid, np.stack([np.interp(grid, steps, values, left=np.nan, right=np.nan) for steps, values in known])


def _share_axis(axes: Axes, values: Sequence[float], axis: str) -> None:
    """From 0 to 1 where all values are shares."""
    if min(values) >= 0 and max(values) <= 1:
        axes.set_xlim(-0.02, 1.02) if axis == "x" else axes.set_ylim(-0.02, 1.02)
