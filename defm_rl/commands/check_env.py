"""`defm-rl check-env env=gymnasium env.id=...`: whether a task's depth is what it is taken for, and what takes time."""

import dataclasses
import functools
import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, on machines without a display too

import matplotlib.pyplot as plt
import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from defm_rl import normalize_depth
from defm_rl.checking import EnvReport
from defm_rl.commands import experiment_settings as settings
from defm_rl.commands.running import command
from defm_rl.experiments import environments
from defm_rl.experiments.config import (
    Config,
    compose_config,
    is_free,
    known_keys,
    refused_settings,
    with_search_path,
)
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.tasks import IDEAL, Task, make_task

_logger = logging.getLogger(__name__)

_COLUMNS = {
    "frames": "frames",
    "height": "height",
    "width": "width",
    "nearest_m": "nearest m",
    "median_m": "median m",
    "farthest_m": "farthest m",
    "hole_share": "holes",
}
_KEYS = {"unit": "env.depth_unit", "max_depth_m": "env.max_depth_m"}  # of check_env's arguments
_CHANNELS = ("log depth, 0 to 100 m", "log depth, near part", "log depth, scaled in each image")
_SHOWN = 3  # frames of each camera in the picture


@dataclass
class Settings:
    """What can be set besides the experiment's own keys, such as env.id and encoder."""

    steps: int = 200  # random ones, of each environment
    envs: int = 4  # environments that are looked at
    picture: str = "check_env.png"  # what it sees, and the encoders' three channels of it


@command("check-env", lambda: settings.usage("defm-rl check-env", Settings, __doc__ or ""))
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status: 1 where there are errors."""
    with refused_settings():
        report = _run(with_search_path(arguments))
    return int(bool(report.errors))


def _run(arguments: Sequence[str]) -> EnvReport:
    own = settings.keys(Settings)
    mine = [argument for argument in arguments if argument.partition("=")[0] in own]
    others = [argument for argument in arguments if argument not in mine]
    for argument in others:
        if argument.partition("=")[0] not in known_keys() and not is_free(argument.partition("=")[0]):
            settings.parse(Settings, [argument], also=known_keys())  # says what is wrong
    chosen = settings.parse(Settings, mine)
    settings.at_least(steps=(chosen.steps, 1), envs=(chosen.envs, 1))
    config = to_config(compose_config(others))
    task = make_task(config.env)
    report = task.examine(num_envs=chosen.envs, steps=chosen.steps, seed=config.seed)
    _logger.info("%s, %d random steps of %d environments", config.env.id, chosen.steps, chosen.envs)
    _logger.info("\n%s", findings_text(report))
    if report.cameras:
        _logger.info("\n%s", figures_table(report.cameras))
    if report.errors:
        _logger.info("\nThe speed is measured where there are no errors.")
    else:
        _logger.info("\n%s", _speeds(task, config, report, chosen))
    if report.frames:
        picture(report.frames, Path(chosen.picture))
        _logger.info("\nPicture: %s", chosen.picture)
    return report


def findings_text(report: EnvReport) -> str:
    """The findings, the worst first."""
    if not report.findings:
        return "Nothing is wrong."
    lines = [f"{finding.severity.value.upper():<8}{finding.name}: {finding.message}" for finding in report.findings]
    named = [f"{argument}= is {key}=" for argument, key in _KEYS.items() if any(f"{argument}=" in x for x in lines)]
    return "\n".join([*lines, *([f"(As keys here: {', '.join(named)}.)"] if named else [])])


def figures_table(cameras: Mapping[str, Mapping[str, float]]) -> str:
    """What each camera sees as aligned text."""
    rows = [["camera", *_COLUMNS.values()]]
    for key, figures in cameras.items():
        cells = [
            f"{figures[name]:.1%}"
            if name == "hole_share"
            else f"{figures[name]:.4g}"
            if name.endswith("_m")
            else f"{figures[name]:.0f}"
            for name in _COLUMNS
        ]
        rows.append([key, *cells])
    return _aligned(rows)


def _speeds(task: Task[Any], config: Config, report: EnvReport, chosen: Settings) -> str:
    """How long the parts of a step take, for one environment of several, as aligned text."""
    cameras, vectors = tuple(task.cameras), task.vectors
    rows = [["of one step of one environment", "ms"]]

    def add(part: str, seconds: float) -> None:
        rows.append([part, f"{1e3 * seconds / chosen.envs:.2f}"])

    blind = bool(cameras) and bool(vectors) and task.depth_can_be_left_out
    for part, observations in (("without depth", vectors), ("with depth", (*cameras, *vectors))):
        if part == "with depth" or blind:
            env = task.make(observations, num_envs=chosen.envs, sensor=IDEAL)
            env.reset(seed=config.seed)
            add(f"environment, {part}", _median(functools.partial(_random_step, env), chosen.steps))
            env.close()
    if cameras:
        frames = np.resize(report.frames[cameras[0]], (chosen.envs, *report.frames[cameras[0]].shape[1:]))
        add("normalization of a frame to three channels", _median(lambda: normalize_depth(frames), chosen.steps))
        if config.encoder.kind == "defm":
            random = dataclasses.replace(config.encoder, weights="random")  # which takes as long as any other
            encoder = environments.make_encoder(random, task.depth_size(config.encoder))
            name = f"encoding of a frame, {config.encoder.name} to {'+'.join(config.encoder.features)}"
            add(name, _median(lambda: encoder.encode(frames), chosen.steps))
    return _aligned(rows)


def _random_step(env: VectorEnv[Any, Any, Any]) -> None:
    env.step(env.action_space.sample())


def _median(call: Callable[[], object], times: int) -> float:
    """Seconds that a call takes, as a median after a first one that is not counted."""
    call()
    taken = []
    for _ in range(max(3, times // 4)):
        started = time.perf_counter()
        call()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def picture(frames: Mapping[str, NDArray[np.float32]], path: Path) -> None:
    """Depth with its scale, holes in red, beside the three channels that encoders are given.

    Args:
        frames: Of each camera, (N, H, W) metres.
        path: The file to write.
    """
    shown = [(key, frame) for key, some in frames.items() for frame in some[:: max(1, len(some) // _SHOWN)][:_SHOWN]]
    figure, axes = plt.subplots(len(shown), 4, figsize=(13, 2.6 * len(shown)), squeeze=False, layout="constrained")
    colours = plt.get_cmap("viridis").with_extremes(bad="red")
    for row, (key, frame) in zip(axes, shown, strict=True):
        drawn = row[0].imshow(np.ma.masked_less_equal(frame, 0.0), cmap=colours)
        figure.colorbar(drawn, ax=row[0], label="metres")
        row[0].set_title(f"{key}: depth (holes are red)", fontsize=9)
        for index, channel in enumerate(normalize_depth(frame[None])[0].numpy()):
            row[index + 1].imshow(channel, cmap="gray")
            row[index + 1].set_title(_CHANNELS[index], fontsize=9)
        for axis in row:
            axis.set_axis_off()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(x.rjust(w) for x, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
