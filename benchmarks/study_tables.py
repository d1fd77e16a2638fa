"""The study of adaptation as tables and a picture, of whatever `study_adaptation.py` has finished.

    python benchmarks/study_tables.py [--folder runs/adaptation] [--figures docs/images]

Success is the mean over seeds; its interval a bootstrap over seeds and, within each, episodes (one seed: Wilson's).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from study_adaptation import CAMERAS, EVALUATED, HOLES, SEEN, STUDENTS, weights

from defm_rl.experiments import statistics
from defm_rl.experiments.evaluation import Cell, Options
from defm_rl.experiments.runs import Run

SENSORS = EVALUATED.strip("[]").split(",")
OPTIONS = Options(200, 2_000_000, 32, "auto")
LEFT_OUT = "without"
ARMS = {
    "trained on ideal depth": ("ideal", None),
    "the same, adapted to four": ("ideal", "all"),
    "the same, adapted to four for 2000 steps": ("ideal", "longer"),
    "the same, adapted to four with holes=0.1": ("ideal", "all-holes-0.1"),
    "the same, adapted to the other three": ("ideal", LEFT_OUT),
    "trained with zedx's delay alone": ("zedx_without_noise", None),
    "that, adapted to four": ("zedx_without_noise", "all"),
    "trained with stereo's noise": ("stereo", None),
    "this, adapted to four": ("stereo", "all"),
}
COLOURS = ("#9aa5b1", "#0b6e99", "#053e57", "#3f9ac0", "#8cc4dd", "#f0c9a0", "#c8553d", "#c5dfb4", "#588b49")
SETTINGS = {
    "encoder (P3)": {
        "RegNetY-400MF": ("regnet_y_400mf-P3", "all"),
        "ResNet-18": ("resnet18-P3", "all"),
        "EfficientNet-B0": ("efficientnet_b0-P3", "all"),
    },
    "features (RegNetY-400MF)": {
        "P3": ("regnet_y_400mf-P3", "all"),
        "P4": ("regnet_y_400mf-P4", "all"),
        "global": ("regnet_y_400mf-global", "all"),
    },
    "frames": {
        "500": ("regnet_y_400mf-P3", "frames-500"),
        "2000": ("regnet_y_400mf-P3", "frames-2000"),
        "12 000": ("regnet_y_400mf-P3", "all"),
    },
    "steps": {
        "100": ("regnet_y_400mf-P3", "steps-100"),
        "300": ("regnet_y_400mf-P3", "steps-300"),
        "800": ("regnet_y_400mf-P3", "all"),
        "2000": ("regnet_y_400mf-P3", "steps-2000"),
    },
    "parts": {
        "all": ("regnet_y_400mf-P3", "all"),
        "norms": ("regnet_y_400mf-P3", "parts-norms"),
        "stem": ("regnet_y_400mf-P3", "parts-stem"),
        "stem, block1": ("regnet_y_400mf-P3", "parts-stem-block1"),
    },
}


def successes(runs: Sequence[Path], sensor: str, name: str | None) -> list[np.ndarray]:
    """Of each run that has been behind this sensor: whether each episode succeeded; name: of its adaptation."""
    cells = [Cell(Run(run), sensor, OPTIONS, weights(run, name) if name else None) for run in runs if run.exists()]
    cells = [cell for cell in cells if (cell.adapted is None or cell.adapted.exists()) and cell.finished]
    return [np.array([bool(episode.success) for episode in cell.episodes()], float) for cell in cells]


def estimate(found: Sequence[np.ndarray]) -> tuple[float, float, float] | None:
    """Mean, low and high, in percent."""
    if not found:
        return None
    if len(found) == 1:
        rate = statistics.rate(found[0].astype(bool))
        return 100 * rate["mean"], 100 * rate["low"], 100 * rate["high"]
    over = statistics.over_runs_and_episodes(found)
    return 100 * over["value"], 100 * over["low"], 100 * over["high"]


def cell_text(found: Sequence[np.ndarray]) -> str:
    figure = estimate(found)
    return "" if figure is None else "{:.1f} % ({:.0f} to {:.0f})".format(*figure)


def table(title: str, columns: Sequence[str], rows: dict[str, Sequence[str]]) -> str:
    rows = {name: cells for name, cells in rows.items() if any(cells)}
    lines = [f"| {title} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    return "\n".join([*lines, *(f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items())])


def arms(base: Path) -> dict[str, list[list[np.ndarray]]]:
    """Of each arm of navigation, behind each sensor: the seeds' episodes."""
    found = {}
    for name, (trained, weight) in ARMS.items():
        runs = [base / f"{trained}-{seed}" for seed in range(3)]
        found[name] = left_out(runs) if weight == LEFT_OUT else [successes(runs, sensor, weight) for sensor in SENSORS]
    return found


def left_out(runs: Sequence[Path]) -> list[list[np.ndarray]]:
    return [successes(runs, sensor, f"{LEFT_OUT}-{sensor}") if sensor in CAMERAS else [] for sensor in SENSORS]


def draw(base: Path, file: Path) -> None:
    """Arms behind cameras, and what the settings do."""
    found = {name: cells for name, cells in arms(base / "navigation").items() if any(cells)}
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    axes = figure.subplots()
    width = 0.8 / len(found)
    for index, (name, cells) in enumerate(found.items()):
        colour = COLOURS[list(ARMS).index(name)]
        figures = [estimate(runs) for runs in cells]
        at = [x + (index - (len(found) - 1) / 2) * width for x, y in enumerate(figures) if y]
        seen = np.array([y for y in figures if y])
        errors = np.abs(seen[:, 1:].T - seen[:, 0])
        axes.bar(at, seen[:, 0], width * 0.92, yerr=errors, label=name, error_kw={"lw": 0.8}, color=colour)
    axes.set_xticks(range(len(SENSORS)), SENSORS)
    axes.set_ylabel("success, %")
    axes.set_ylim(0, 105)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(file, dpi=120)


def draw_settings(base: Path, file: Path) -> None:
    """Success behind each camera, adapted, over what each setting can be."""
    groups = {
        title: {name: found for name, (run, weight) in choices.items() if (found := of(base / run, weight))}
        for title, choices in SETTINGS.items()
    }
    groups = {title: choices for title, choices in groups.items() if len(choices) > 1}
    if not groups:
        return
    figure = Figure(figsize=(2.6 * len(groups), 3.4), layout="constrained")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (title, choices) in zip(panels, groups.items(), strict=True):
        style = "o-" if title in ("frames", "steps") else "o"
        for index, sensor in enumerate(SENSORS):
            line = [100 * found[sensor].mean() for found in choices.values() if sensor in found]
            axes.plot(range(len(line)), line, style, color=f"C{index}", label=sensor)
        axes.set_xticks(range(len(choices)), choices, rotation=25, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.5, len(choices) - 0.5)
        axes.set_title(title, fontsize=10)
        axes.set_ylim(0, 105)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("success, %")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(SENSORS), frameon=False)
    figure.savefig(file, dpi=120)


def of(run: Path, name: str) -> dict[str, np.ndarray]:
    found = {sensor: successes([run], sensor, name) for sensor in SENSORS}
    return {sensor: episodes[0] for sensor, episodes in found.items() if episodes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--figures", type=Path, default=Path("docs/images"))
    chosen = parser.parse_args()
    navigation = chosen.folder / "navigation"
    runs = [navigation / f"ideal-{seed}" for seed in range(3)]
    rows = {name: [cell_text(cell) for cell in cells] for name, cells in arms(navigation).items()}
    print(table("navigation", SENSORS, rows))
    for seed, run in enumerate(runs):
        each = {
            f"seed {seed}, as it was trained": [cell_text(successes([run], sensor, None)) for sensor in SENSORS],
            f"seed {seed}, adapted": [cell_text(successes([run], sensor, "all")) for sensor in SENSORS],
            f"seed {seed}, adapted for 2000 steps": [
                cell_text(successes([run], sensor, "longer")) for sensor in SENSORS
            ],
            f"seed {seed}, adapted to the other three": [cell_text(x) for x in left_out([run])],
        }
        print(table("navigation, each seed", SENSORS, each))
    lost = {}
    for seed, share, steps in HOLES:
        cells = [successes([navigation / f"ideal-{seed}"], sensor, f"holes-{share}-{steps}") for sensor in SENSORS]
        lost[f"seed {seed}, holes={share}, {steps} steps"] = [cell_text(cell) for cell in cells]
    print(table("stereo_ladder left out", SENSORS, lost))
    for task in STUDENTS:
        run = chosen.folder / task / "student"
        each = {
            "as it was trained": [cell_text(successes([run], sensor, None)) for sensor in SENSORS],
            "adapted": [cell_text(successes([run], sensor, "all")) for sensor in SENSORS],
            "adapted to the other three": [cell_text(x) for x in left_out([run])],
        }
        print(table(task, SENSORS, each))
        columns = ("ideal", *SEEN[task])
        weight_of = {"as it was trained": None, "adapted to these": "seen"}
        each = {name: [cell_text(successes([run], x, weight)) for x in columns] for name, weight in weight_of.items()}
        print(table(f"{task}, cameras that see something", columns, each))
    for title, choices in SETTINGS.items():
        each = {}
        for name, (run, weight) in choices.items():
            folder = chosen.folder / "settings" / run
            if weight == "all":
                each[f"{name}, as it was trained"] = [cell_text(successes([folder], s, None)) for s in SENSORS]
            each[f"{name}, adapted"] = [cell_text(successes([folder], s, weight)) for s in SENSORS]
        print(table(title, SENSORS, each))
    draw(chosen.folder, chosen.figures / "adaptation_study.png")
    draw_settings(chosen.folder / "settings", chosen.figures / "adaptation_settings.png")


if __name__ == "__main__":
    main()
