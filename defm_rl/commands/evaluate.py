"""`defm-rl evaluate RUN... [sensors=all]`: trained policies on layouts never seen in training, behind any camera.

RUN is a run's folder, or one with runs in it, such as a sweep's; or hf://user/repo[@revision], which is pulled.
"""

import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defm_rl.commands import experiment_settings as settings
from defm_rl.commands.running import command
from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.weights import find_weights
from defm_rl.errors import UserError
from defm_rl.experiments import environments, hub
from defm_rl.experiments.adapted import load_adapted
from defm_rl.experiments.config import Config, ConfigError, refused_settings
from defm_rl.experiments.episodes import Policy
from defm_rl.experiments.evaluation import Cell, Options, describe, evaluate, threads_put_back
from defm_rl.experiments.interruption import INTERRUPTED, stop_on_sigterm
from defm_rl.experiments.report import adaptations, clips, losses, recorded, scenes, summary
from defm_rl.experiments.report.arms import Arm, adapted_arm, group
from defm_rl.experiments.report.write import default_folder, write_report
from defm_rl.experiments.runs import Run, runs_below
from defm_rl.experiments.tasks import IDEAL, Ability, make_task
from defm_rl.sensors import taken_apart

_logger = logging.getLogger(__name__)

_CLIPS_BYTES = 2_000_000  # a third more as text in the page, which is to stay below 5 MB


@dataclass
class Settings:
    """What can be said after the runs, as key=value."""

    episodes: int = 200
    first_layout: int = 2_000_000  # neither training nor its own evaluation draws these
    num_envs: int = 32
    renderer: str = "auto"
    sensors: Any = None  # all, or a list of names; without it each run's own sensor, and no report
    measure: str = "success"  # the task's main measure: success, spl, ...
    report: str | None = None  # the report's folder; without it a new one in runs/report
    clips: int = 1  # filmed successes and failures, of each policy behind two sensors; 0: none
    frames: int = 256  # for the comparison of features; 0: none
    recorded: str | None = None  # recorded depth to compare features with: files, a ROS bag, a LeRobot dataset, ...
    recorded_unit: Any = None  # m, mm, or the metres of one count, such as 0.0001; needed for 8-bit images
    recorded_max_depth_m: float | None = None  # beyond it a pixel is a hole
    parts: bool = False  # also with each sensor's noise, range, latency and frame rate switched off, one at a time
    adapted: str | None = None  # a file that `defm-rl adapt` made, to hold against the encoder as it was trained with
    trust: bool = False  # code that a run from the Hub brings or names may run here
    fresh: bool = False  # evaluate again what is finished already

    @property
    def reported(self) -> bool:
        """Whether a report is written."""
        return self.sensors is not None or self.report is not None or self.adapted is not None or self.parts

    def options(self) -> Options:
        """Which episodes, and how they are run."""
        return Options(self.episodes, self.first_layout, self.num_envs, self.renderer)


def parse(arguments: Sequence[str]) -> tuple[list[Run], Settings]:
    """Runs and settings from the command line.

    Raises:
        ConfigError: For an unknown key, a value that does not fit, or no run at all.
    """
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    chosen = settings.parse(Settings, overrides)
    # A pattern such as runs/quickstart/DATE/* matches files as well, of a sweep for example.
    named = [x for x in arguments if x not in overrides and not Path(x).is_file()]
    folders = [_local(name, chosen) for name in named]
    if not folders:
        raise ConfigError("Name a run: defm-rl evaluate runs/quickstart/DATE [sensors=all] [episodes=200]")
    settings.at_least(episodes=(chosen.episodes, 1), num_envs=(chosen.num_envs, 1), clips=(chosen.clips, 0))
    if chosen.frames:
        settings.at_least(frames=(chosen.frames, scenes.MIN_FRAMES))
    if chosen.sensors is not None:
        chosen.sensors = settings.sensor_names(chosen.sensors)
    if chosen.adapted is not None:
        find_weights("", chosen.adapted)  # before hours of evaluation, not after
    if chosen.recorded is not None:
        recorded.check_source(chosen.recorded)  # before hours of evaluation, not after
    return _runs(list(dict.fromkeys(folders))), chosen


def _local(name: str, chosen: Settings) -> Path:
    """A run's folder, after it was pulled where it is one of the Hub's."""
    if not name.startswith(hub.SCHEME):
        return Path(name)
    return hub.pull(hub.Place.parse(name), trust=chosen.trust).folder


def _runs(folders: Sequence[Path]) -> list[Run]:
    """The runs in folders, those of sweeps in theirs; what never got as far as a checkpoint is left out with a line.

    Where that leaves nothing, all are kept, for each to be refused with its reason.
    """
    found = {folder: runs_below(folder) or [Run(folder)] for folder in folders}
    runs = list(dict.fromkeys(run for below in found.values() for run in below))
    empty = [run for run in runs if run.folder.exists() and not run.checkpoint.exists()]
    if len(empty) == len(runs):
        return runs
    if empty:
        _logger.info("Left out, without a checkpoint: %s", ", ".join(str(run.folder) for run in empty))
    return [run for run in runs if run not in empty]


@command("evaluate", lambda: settings.usage("defm-rl evaluate RUN...", Settings, __doc__ or ""))
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    runs, chosen = parse(arguments)
    stop_on_sigterm()
    problems: list[str] = []
    cells: list[Cell] = []
    try:
        configs = _configurations(runs, chosen, problems)
        cells = [
            Cell(run, name, chosen.options(), adapted)
            for run, config in configs.items()
            for adapted in _adaptations(chosen)
            for name in _with_parts(_sensors(config, chosen), chosen)
        ]
        _evaluate_all(cells, configs, chosen, problems)
        if chosen.reported and any(cell.finished for cell in cells):
            _report(cells, configs, chosen, problems)
        if chosen.adapted and len(runs) == 1:
            _logger.info("For the robot: defm-rl export %s adapted=%s", runs[0].folder, chosen.adapted)
    except UserError as error:
        problems.append(str(error))
    except KeyboardInterrupt:
        finished = sum(cell.finished for cell in cells)
        _logger.info(
            "\nInterrupted: %d of %d evaluations are finished and kept. The same command goes on.", finished, len(cells)
        )
        return INTERRUPTED
    for problem in problems:
        sys.stderr.write(f"defm-rl evaluate: {problem}\n")
    return 2 if problems else 0


def _adaptations(chosen: Settings) -> list[Path | None]:
    """As it was trained, and with adapted weights where there are any."""
    return [None] if chosen.adapted is None else [None, Path(chosen.adapted)]


def _sensors(config: Config, chosen: Settings) -> list[str]:
    return chosen.sensors or [make_task(config.env).sensor]


def _with_parts(names: Sequence[str], chosen: Settings) -> list[str]:
    """The sensors, and where their losses are taken apart what that needs: ideal depth, and each without its parts."""
    if not chosen.parts:
        return list(names)
    apart = [other for name in names for other in taken_apart(name).values()]
    return list(dict.fromkeys([IDEAL, *names, *apart]))


def _configurations(runs: Sequence[Run], chosen: Settings, problems: list[str]) -> dict[Run, Config]:
    """The runs that can be evaluated."""
    configs = {}
    for run in runs:
        try:
            config = run.config()
            if chosen.reported:
                make_task(config.env).require(Ability.SENSORS)
            configs[run] = config
        except UserError as error:
            problems.append(str(error))
    return configs


def _evaluate_all(cells: Sequence[Cell], configs: dict[Run, Config], chosen: Settings, problems: list[str]) -> None:
    """Fills the cells that are not finished; one that fails does not keep the others from being filled."""
    number = 0
    for run, adapted in itertools.product(configs, _adaptations(chosen)):
        own = [cell for cell in cells if cell.run == run and cell.adapted == adapted]
        missing = [cell for cell in own if chosen.fresh or not cell.finished]
        with threads_put_back():
            loaded = _loaded(run, adapted, problems) if missing else None
            for cell in own:
                number += 1
                if cell in missing and not (loaded and _fill(cell, loaded, problems)):
                    continue
                before = "" if cell in missing else " (from before)"
                name = f"{run.folder}{', adapted' if adapted else ''}, sensor {cell.sensor}"
                _logger.info("[%d/%d] %s: %s%s", number, len(cells), name, describe(cell.metrics()), before)
        if run.state()["encoder"].get("weights") == "random":
            _logger.info("  (the encoder's weights are random, not the published ones)")


def _loaded(run: Run, adapted: Path | None, problems: list[str]) -> tuple[Config, Policy, DepthEncoder | None] | None:
    try:
        return load_adapted(run, adapted)
    except UserError as error:
        problems.append(f"{run.folder}: {error}")
        return None


def _fill(cell: Cell, loaded: tuple[Config, Policy, DepthEncoder | None], problems: list[str]) -> bool:
    """Evaluates; says whether it worked."""
    config, policy, encoder = loaded
    try:
        cell.write(config, evaluate(config, policy, encoder, cell.options, cell.sensor))
    except UserError as error:
        problems.append(f"{cell.run.folder}, sensor {cell.sensor}: {error}")
        return False
    return True


def _report(cells: Sequence[Cell], configs: dict[Run, Config], chosen: Settings, problems: list[str]) -> None:
    """Writes what the finished cells say."""
    cells = [cell for cell in cells if cell.finished]
    runs = list(dict.fromkeys(cell.run for cell in cells))
    arms = [
        arm if adapted is None else adapted_arm(arm, adapted)
        for arm in group(runs, [configs[run] for run in runs])
        for adapted in _adaptations(chosen)
    ]
    seen_with = list(dict.fromkeys(cell.sensor for cell in cells))
    asked = {name for config in configs.values() for name in _sensors(config, chosen)} | {IDEAL}
    names = [name for name in seen_with if name in asked]
    results = {
        (arm, name): [
            (cell, cell.episodes())
            for cell in cells
            if cell.run in arm.runs and cell.adapted == arm.adapted and cell.sensor == name
        ]
        for arm in arms
        for name in seen_with
    }
    arms = [arm for arm in arms if any(results[arm, name] for name in names)]  # an adaptation may have been refused
    content = summary.summarize(results, arms, names, chosen.measure)
    content["options"] = {**vars(chosen), "sensors": names}
    content["losses"] = losses.taken_apart(results, arms, names) if chosen.parts else []
    content["adapted"] = _adapted(results, arms, names, chosen, problems) if chosen.adapted else []
    films: list[clips.Clip] = []
    for arm in arms if chosen.clips else ():
        if sum(len(film.gif) for film in films) > _CLIPS_BYTES:
            _logger.info("No clips of %s: the page would become too large", arm.name)
            continue
        films += _films(arm, content, chosen, problems)
    encoders, content["recorded"] = _encoders(arms, names, chosen, problems) if chosen.frames else ([], None)
    content["problems"] = list(problems)
    folder = Path(chosen.report) if chosen.report else default_folder()
    page = write_report(folder, "Sim-to-real report", content, arms=arms, encoders=encoders, clips=films)
    _logger.info("Report: %s", page)


def _adapted(
    results: summary.Results, arms: Sequence[Arm], names: Sequence[str], chosen: Settings, problems: list[str]
) -> list[dict[str, Any]]:
    """Each policy as it was trained beside itself on adapted weights."""
    found = []
    for frozen, own in itertools.pairwise(arms):
        if own.adapted is None or frozen.adapted is not None:
            continue
        gaps = None
        if chosen.frames:
            _logger.info("Comparing the features of %s", own.name)
            try:
                with threads_put_back(), refused_settings():
                    gaps = adaptations.feature_gaps(
                        own.runs[0],
                        own.adapted,
                        chosen.sensors or [own.trained_with],
                        chosen.frames,
                        chosen.first_layout,
                    )
            except UserError as error:
                problems.append(f"{own.runs[0].folder}: {error}")
        found.append(adaptations.compared(results, frozen, own, names, gaps))
    return found


def _films(arm: Arm, content: dict[str, Any], chosen: Settings, problems: list[str]) -> list[clips.Clip]:
    """Of an arm's first run, behind the sensor of its training and the one with which it loses most."""
    lack = make_task(arm.config.env).lacks.get(Ability.FILMS)
    if lack is not None:
        _logger.info("No clips of %s: %s", arm.name, lack)
        return []
    by_sensor = next(policy for policy in content["policies"] if policy["name"] == arm.name)["by_sensor"]
    drops = {name: drop["value"] for name, seen in by_sensor.items() if (drop := seen["drop"]) and drop["value"] > 0}
    worst = max(drops, key=lambda name: drops[name], default=arm.trained_with)
    shown = [name for name in dict.fromkeys((arm.trained_with, worst)) if name in by_sensor]
    if not shown:
        return []
    _logger.info("Filming %s", arm.name)
    with threads_put_back():
        loaded = _loaded(arm.runs[0], arm.adapted, problems)
        if loaded is None:
            return []
        config, policy, encoder = loaded
        options = chosen.options()
        return [
            clip
            for name in shown
            for clip in clips.film(arm.name, config, policy, encoder, options, name, chosen.clips)
        ]


def _encoders(
    arms: Sequence[Arm], names: Sequence[str], chosen: Settings, problems: list[str]
) -> tuple[list[scenes.EncoderReport], dict[str, Any] | None]:
    """What becomes of the features of each frozen encoder, and where recorded depth came from."""
    reports: dict[str, scenes.EncoderReport] = {}
    source = None
    for arm in arms:
        config = arm.config
        if config.encoder.kind != "defm" or config.encoder.trainable or arm.adapted is not None:
            continue
        kwargs = environments.encoder_kwargs(config.encoder)
        size = make_task(config.env).depth_size(config.encoder)
        key = repr((arm.task, size, sorted(kwargs.items())))
        if key in reports:
            continue
        _logger.info("Comparing the features of %s", config.encoder.name)
        with refused_settings():
            frames = scenes.scene_frames(config, chosen.frames, chosen.first_layout)
        real = None
        if chosen.recorded is not None:
            try:
                real, source = scenes.recorded_frames(
                    chosen.recorded, config, chosen.recorded_unit, chosen.recorded_max_depth_m, chosen.frames
                )
                found = source.pop("problems")
            except ConfigError as error:
                found = [str(error)]
            problems += [problem for problem in found if problem not in problems]
        encoder = environments.make_encoder(config.encoder, size)
        reports[key] = scenes.report_encoder(encoder, arm.task, frames, names, real, seed=chosen.first_layout)
    return list(reports.values()), source
