"""The report's charts, as SVG to be put into a page."""

import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, on machines without a display too

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from defm_rl.experiments import plots
from defm_rl.experiments.report.arms import Arm

# Okabe and Ito's colours, which people with any kind of colour vision tell apart; markers say the same once more.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "D", "^", "v", "P", "X")
SUCCESS_COLOUR = "#B8C4CE"
FAILURE_COLOURS = ("#D55E00", "#E69F00", "#0072B2", "#CC79A7", "#000000", "#56B4E9", "#009E73")
STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["system-ui", "Segoe UI", "Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text: small, sharp, and can be searched
    "svg.hashsalt": "defm-rl",  # the same report twice is the same file
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.labelcolor": "#333333",
    "xtick.color": "#555555",
    "ytick.color": "#333333",
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "axes.axisbelow": True,
}


def with_ids(svg: str, prefix: str) -> str:
    """The same figure with all its ids, and what refers to them, under a prefix: several figures share a page."""
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)


def measure_name(measure: str) -> str:
    """As it is written on an axis."""
    return {"success": "success rate", "spl": "SPL"}.get(measure, measure.replace("_", " "))


def by_sensor(summary: Mapping[str, Any], policies: Sequence[Mapping[str, Any]]) -> str:
    """The measure with its interval, sensors from top to bottom, policies beside each other."""
    sensors = [name for name in summary["sensors"] if any(name in policy["by_sensor"] for policy in policies)]
    offsets = np.linspace(-0.28, 0.28, len(policies)) if len(policies) > 1 else [0.0]

    def draw(axes: Axes) -> None:
        for policy, offset, colour, marker in _styled(policies, offsets):
            places, figures = [], []
            for row, sensor in enumerate(sensors):
                if sensor in policy["by_sensor"]:
                    places.append(row + offset)
                    figures.append(policy["by_sensor"][sensor]["figure"])
            values = np.array([figure["value"] for figure in figures])
            errors = np.abs([[f[end] - f["value"] for f in figures] for end in ("low", "high")])
            axes.errorbar(
                values, places, xerr=errors, fmt=marker, color=colour, ms=6, capsize=2.5, lw=1.4, label=policy["name"]
            )
            trained = [row for row, sensor in enumerate(sensors) if sensor == policy["trained_with"]]
            for row in trained:
                axes.plot(
                    policy["by_sensor"][sensors[row]]["figure"]["value"], row + offset, marker, ms=10, mfc="none",
                    mec=colour, mew=1.2,
                )  # fmt: skip
        axes.set_yticks(range(len(sensors)), sensors)
        axes.set_ylim(len(sensors) - 0.5, -0.5)
        for row in range(1, len(sensors), 2):
            axes.axhspan(row - 0.5, row + 0.5, color="#F5F7F9", zorder=0, lw=0)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        _measure_axis(axes.set_xlabel, axes.set_xlim, summary["measure"], _all_figures(policies))
        legend_above(axes)

    return svg(draw, (7.6, 0.9 + len(sensors) * (0.32 + 0.13 * len(policies))), "by-sensor")


def profiles(policies: Sequence[Mapping[str, Any]], measure: str) -> str | None:
    """Share of runs and sensors above each score."""
    known = [policy for policy in policies if policy["profile"]]
    if not known:
        return None

    def draw(axes: Axes) -> None:
        for policy, _, colour, _ in _styled(policies, itertools.repeat(0.0)):
            if policy["profile"]:
                profile = policy["profile"]
                axes.step(
                    profile["thresholds"], profile["shares"], where="post", color=colour, lw=1.8, label=policy["name"]
                )
        axes.set(
            xlim=(0, 1), ylim=(0, 1.03), xlabel=f"{measure_name(measure)} above", ylabel="share of runs and sensors"
        )
        legend_above(axes)

    return svg(draw, (5.6, 3.4), "profile")


def failures(policies: Sequence[Mapping[str, Any]], sensors: Sequence[str]) -> str | None:
    """How episodes ended: a bar for each policy and sensor; None where the task knows neither success nor failure."""
    modes = failure_modes(policies)
    rows = [(policy, sensor) for policy in policies for sensor in sensors if sensor in policy["by_sensor"]]
    if not modes and all("success" not in policy["by_sensor"][sensor]["means"] for policy, sensor in rows):
        return None

    def draw(axes: Axes) -> None:
        place, ticks, last = 0.0, [], None
        for policy, sensor in rows:
            if policy is not last:
                place += 0.9 if last is not None else 0.0
                axes.text(
                    0, place - 0.62, policy["name"], fontweight="bold", color="#333333", va="center", fontsize=9.5
                )
                last = policy
                place += 0.15
            seen = policy["by_sensor"][sensor]
            total = seen["figure"]["episodes"]
            ends = [("success", total - sum(seen["failures"].values()), SUCCESS_COLOUR)]
            ends += [
                (mode, seen["failures"].get(mode, 0), colour)
                for mode, colour in zip(modes, itertools.cycle(FAILURE_COLOURS), strict=False)
            ]
            left = 0.0
            for mode, count, colour in ends:
                share = count / total
                axes.barh(place, share, left=left, height=0.78, color=colour, label=mode, lw=0)
                if share >= 0.06:
                    dark = colour in (SUCCESS_COLOUR, "#E69F00", "#56B4E9", "#CC79A7")
                    axes.text(
                        left + share / 2, place, str(count), ha="center", va="center", fontsize=8.5,
                        color="#222222" if dark else "white",
                    )  # fmt: skip
                left += share
            ticks.append((place, sensor))
            place += 1
        axes.set_yticks([tick for tick, _ in ticks], [name for _, name in ticks])
        axes.set_ylim(place - 0.4, -1.0)
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
        axes.set_xlabel("share of the episodes (numbers: episodes)")
        axes.grid(visible=False)
        axes.tick_params(axis="y", length=0)
        axes.spines[["left", "bottom"]].set_visible(False)
        legend_above(axes)

    groups = len({id(policy) for policy, _ in rows})
    return svg(draw, (7.6, 0.9 + 0.27 * len(rows) + 0.3 * groups), "failures")


def failure_modes(policies: Sequence[Mapping[str, Any]]) -> list[str]:
    """All ways to fail, the most frequent first."""
    counts: dict[str, int] = {}
    for policy in policies:
        for seen in policy["by_sensor"].values():
            for mode, count in seen["failures"].items():
                counts[mode] = counts.get(mode, 0) + count
    return sorted(counts, key=lambda mode: -counts[mode])


def learning_curves(arms: Sequence[Arm]) -> str | None:
    """Success during training: a thin line for each run, one colour for each policy."""
    drawn = {arm.runs: arm for arm in reversed(arms)}  # adapting trains no policy: its runs are drawn once
    histories = [[plots.read_history(run) for run in arm.runs] for arm in arms]
    if not any(history for runs in histories for history in runs):
        return None
    succeeds = all("success_rate" in history for runs in histories for history in runs if history)
    column = "success_rate" if succeeds else "episode_reward"

    def draw(axes: Axes) -> None:
        for arm, runs, colour in zip(arms, histories, itertools.cycle(COLOURS), strict=False):
            if drawn[arm.runs] is not arm:
                continue
            label: str | None = arm.name
            for history in filter(None, runs):
                axes.plot(history["steps"], history[column], color=colour, lw=1.5, alpha=0.85, label=label)
                label = None
        training_axes(axes, succeeds=succeeds)

    return svg(draw, (5.6, 3.4), "curves")


def training_axes(axes: Axes, *, succeeds: bool) -> None:
    """What learning curves are drawn over: success, or reward where a task knows of no success, over steps."""
    axes.set(xlabel="environment steps", ylabel=f"{'success' if succeeds else 'reward'}, last 200 episodes")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    if succeeds:
        axes.set(ylim=(-0.02, 1.02))
        axes.yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1, decimals=0))
    legend_above(axes)


def depth_scale(far_m: float) -> str:
    """What the depth pictures' colours mean."""

    def draw(axes: Axes) -> None:
        axes.imshow(np.linspace(0, 1, 256)[None], cmap="viridis_r", aspect="auto", extent=(0, far_m, 0, 1))
        axes.set(yticks=[], xlabel=f"depth in metres; {far_m:.1f} m and more in the last colour, holes almost black")
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)

    return svg(draw, (3.6, 0.55), "scale")


def _styled(policies: Sequence[Mapping[str, Any]], offsets: Any) -> Any:
    return zip(policies, offsets, itertools.cycle(COLOURS), itertools.cycle(MARKERS))


def _all_figures(policies: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [seen["figure"] for policy in policies for seen in policy["by_sensor"].values()]


def _measure_axis(
    label: Callable[[str], Any], limit: Callable[..., Any], measure: str, figures: Sequence[Mapping[str, Any]]
) -> None:
    label(f"{measure_name(measure)}, 95 % interval; ring: the sensor of the training")
    if all(figure["low"] >= 0 and figure["high"] <= 1 for figure in figures):
        limit(-0.02, 1.02)


def legend_above(axes: Axes) -> None:
    """A legend over the axes, each label once, in as many columns as there is room for."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    columns = max(1, min(len(once), int(90 / (8 + max(map(len, once), default=1)))))
    axes.legend(
        once.values(), once.keys(), loc="lower left", bbox_to_anchor=(0, 1.0), ncols=columns, frameon=False, fontsize=9,
        handlelength=1.4, columnspacing=1.4, borderaxespad=0.2,
    )  # fmt: skip


def svg(draw: Callable[[Axes], None], size_in: tuple[float, float], name: str) -> str:
    """One figure as an <svg> element whose ids begin with `name`."""
    with matplotlib.rc_context(STYLE):
        figure: Figure = plt.figure(figsize=size_in)
        try:
            draw(figure.add_subplot())
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata={"Date": None})
        finally:
            plt.close(figure)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return with_ids(text, name)
