"""`defm-rl gap encoder=resnet18 [sensors=all] [recorded=SOURCE]`: what other cameras do to an encoder's features."""

import logging
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defm_rl.commands import experiment_settings as settings
from defm_rl.commands.running import command
from defm_rl.experiments import environments
from defm_rl.experiments.config import (
    ConfigError,
    compose_config,
    group_options,
    is_key,
    known_keys,
    refused_settings,
    with_search_path,
)
from defm_rl.experiments.report import scenes
from defm_rl.experiments.report.arms import task_name
from defm_rl.experiments.report.write import write_report
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.tasks import make_task

_logger = logging.getLogger(__name__)

_COLUMNS = {
    "hole_share": "holes",
    "cosine": "cosine",
    "cka": "CKA",
    "shift": "shift",
    "nearest_cosine": "nearest cosine",
    "mmd": "MMD²",
    "mmd_to_recorded": "MMD² to recorded",
}


@dataclass
class Settings:
    """What can be set besides the experiment's own keys, such as encoder and env.level."""

    sensors: Any = "all"  # or a list of names
    frames: int = 256  # of the episodes of up to 32 environments
    first_layout: int = 2_000_000  # layouts are numbered
    recorded: str | None = None  # recorded depth: files or a folder of them, a ROS bag, a LeRobot dataset, ...
    recorded_unit: Any = None  # m, mm, or the metres of one count, such as 0.0001; needed for 8-bit images
    recorded_max_depth_m: float | None = None  # beyond it a pixel is a hole
    report: str | None = None  # a folder for report.html, report.json and report.csv


def _usage() -> str:
    usage = settings.usage("defm-rl gap", Settings, __doc__ or "")
    return f"{usage}\nkeys of the experiment, as `defm-rl train` has them:\n{_experiment_keys()}\n"


@command("gap", _usage)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    problems = _run(arguments)
    for problem in problems:
        sys.stderr.write(f"defm-rl gap: {problem}\n")
    return 2 if problems else 0


def _run(arguments: Sequence[str]) -> list[str]:
    """Prints the figures, writes the report where one is asked for; returns what could not be read."""
    arguments = with_search_path(arguments)
    own = settings.keys(Settings)
    mine = [argument for argument in arguments if argument.partition("=")[0] in own]
    others = [argument for argument in arguments if argument not in mine]
    for argument in others:
        if not is_key(argument.partition("=")[0]):
            settings.parse(Settings, [argument], also=known_keys())
    chosen = settings.parse(Settings, mine)
    names = settings.sensor_names(chosen.sensors)
    settings.at_least(frames=(chosen.frames, scenes.MIN_FRAMES))
    config = to_config(compose_config(others))
    make_task(config.env).settle(config)
    if config.encoder.kind != "defm":
        raise ConfigError(f"encoder={config.encoder.kind} has no features to compare: name a DeFM encoder.")
    real, source = None, None
    if chosen.recorded is not None:
        real, source = scenes.recorded_frames(
            chosen.recorded, config, chosen.recorded_unit, chosen.recorded_max_depth_m, chosen.frames
        )
    with refused_settings():
        encoder = environments.settle_weights(config.encoder, make_task(config.env).depth_size(config.encoder))
        assert encoder is not None
        frames = scenes.scene_frames(config, chosen.frames, chosen.first_layout)
    report = scenes.report_encoder(encoder, task_name(config), frames, names, real, seed=chosen.first_layout)
    _logger.info("%s", _table(report.summary))
    problems: list[str] = [] if source is None else source.pop("problems")
    if chosen.report:
        content = {"recorded": source, "problems": problems, "options": vars(chosen)}
        page = write_report(Path(chosen.report), "Feature gap", content, encoders=[report])
        _logger.info("Report: %s", page)
    else:
        _logger.info("report=FOLDER adds pictures of what each camera and the encoder see.")
    return problems


def _experiment_keys() -> str:
    """The keys that decide what is compared, with what they can be where that is a list."""
    encoders = [name for name in group_options("encoder") if name not in ("blind", "cnn")]
    lines = [
        f"  encoder={' | '.join(encoders)}",
        f"  env={' | '.join(group_options('env'))}",
        "  encoder.weights=hub | random | FILE",
    ]
    others = [key for key in known_keys() if key.startswith(("encoder.", "env.")) and key != "encoder.weights"]
    return "\n".join([*lines, textwrap.fill(", ".join(others), 100, initial_indent="  ", subsequent_indent="  ")])


def _table(summary: dict[str, Any]) -> str:
    """The figures as aligned text."""
    shown = {key: title for key, title in _COLUMNS.items() if any(row[key] is not None for row in summary["cameras"])}
    lines = [["camera", *shown.values()]]
    for row in summary["cameras"]:
        figures = [
            "-" if row[key] is None else f"{row[key]:.1%}" if key == "hole_share" else f"{row[key]:.4f}"
            for key in shown
        ]
        lines.append([row["camera"], *figures])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join(
            [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        )
        for cells in lines
    ]
    about = (
        f"{summary['encoder']}, {' + '.join(summary['features'])}, {summary['frames']} frames of "
        f"{summary['image_size'][0]}x{summary['image_size'][1]} pixels"
    )
    if summary["weights"] == "random":
        about += "; RANDOM weights, not the published ones"
    nearest = summary["nearest_to_recorded"]
    if nearest:
        text.append(
            f"Nearest to the recorded frames: {nearest[0]}"
            if len(nearest) == 1
            else f"Nearest to the recorded frames: cannot tell apart {', '.join(nearest)} "
            "(95 % intervals of their differences reach 0; more recorded frames narrow them)"
        )
    return "\n".join([about, *text])
