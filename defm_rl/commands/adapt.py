"""`defm-rl adapt RUN sensors=[stereo,kinect_nguyen]`: an encoder for a policy that is to work behind other cameras."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defm_rl import adaptation
from defm_rl.adaptation import Adapted, Frames, Standardization
from defm_rl.commands import experiment_settings as settings
from defm_rl.commands.running import command
from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import environments, plots
from defm_rl.experiments.adapted import seeing_network
from defm_rl.experiments.config import (
    Config,
    ConfigError,
    compose_config,
    is_key,
    known_keys,
    refused_settings,
    with_search_path,
)
from defm_rl.experiments.episodes import Seeing
from defm_rl.experiments.evaluation import load
from defm_rl.experiments.frames import task_frames
from defm_rl.experiments.interruption import INTERRUPTED, stop_on_sigterm
from defm_rl.experiments.report.arms import task_name
from defm_rl.experiments.report.features import feature_gap, mmd2, nearest_cosine, nearest_to_recorded
from defm_rl.experiments.report.recorded import load_recorded
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.tasks import Ability, make_task
from defm_rl.sensors import SENSORS, Sensor, Stereo, fit_sensor, make_sensor

_logger = logging.getLogger(__name__)

_MIN_FRAMES = 16
_COMPARED = 128  # frames whose features are held against those of recorded ones


@dataclass
class Settings:
    """What can be said as key=value; without a run, an experiment's own keys as well, such as encoder and env."""

    sensors: Any = None  # cameras to adapt to: all, or a list of names
    held_out: Any = None  # cameras that are only looked at; without it two that are not trained on
    pairs: str | None = None  # a folder with clean/ and seen/: the same frames, ideal and as the camera recorded them
    recorded: str | None = (
        None  # the camera's frames (files, a bag, a dataset), to which the nearest simulated sensor is fitted
    )
    recorded_unit: Any = None  # of recorded, pairs and clean: m, mm, or the metres of one count; needed for 8 bits
    recorded_max_depth_m: float | None = None  # beyond it a pixel is a hole
    clean: str | None = None  # clean frames, as recorded, in the place of the task's
    frames: int = 12_000  # clean frames to learn from
    every: int = 4  # of the task's steps: one of so many is kept
    by: str = "both"  # how the task's frames are come by: policy, random, or both
    minutes: float = 5.0
    steps: int | None = None  # a limit beside that of time
    learning_rate: float = 1e-3  # at the beginning; it falls to a hundredth
    holes: float = 0.0  # largest share of a frame lost in random patches, beside what the cameras lose
    parts: Any = "all"  # what is trained: all, norms, or a list of stages
    output: str | None = None  # the file; without it one in RUN/adapted or runs/adapted
    seed: int = 0


@dataclass(frozen=True)
class Task:
    """Whose encoder is adapted.

    Attributes:
        config: The experiment.
        network: The teacher.
        run: The run, where there is a policy.
        policy: Its policy.
        encoder: What encodes depth before the policy.
    """

    config: Config
    network: torch.nn.Module
    run: Run | None = None
    policy: Seeing | None = None
    encoder: DepthEncoder | None = None

    @property
    def standardization(self) -> Standardization | str:
        """How the policy sees features; where it does not say, how those of clean frames are standardized instead."""
        if self.policy is None:
            return "each"
        if self.encoder is None:
            return "all"
        return self.policy.standardization(environments.camera_keys(self.config.encoder)) or "all"


@command("adapt", lambda: settings.usage("defm-rl adapt RUN", Settings, __doc__ or ""))
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    stop_on_sigterm()
    output = None
    try:
        run, chosen, others = parse(with_search_path(arguments))
        output = _output(run, chosen)
        with refused_settings():
            task = _task(run, others)
            adapted = adapt(task, chosen, output)
    except KeyboardInterrupt:
        kept = output is not None and _under_way(output).exists()
        _logger.info("\nInterrupted: %s", "the same command goes on." if kept else "nothing is kept.")
        return INTERRUPTED
    _logger.info("%s", table(adapted.record))
    _logger.info("Weights: %s (card and learning curve beside them)", output)
    if run is not None:
        _logger.info("Next: defm-rl evaluate %s adapted=%s sensors=all", run.folder, output)
    return 0


def parse(arguments: Sequence[str]) -> tuple[Run | None, Settings, list[str]]:
    """The run, if any, the settings, and the experiment's own overrides.

    Raises:
        ConfigError: For an unknown key, a value that does not fit, or nothing to adapt to.
    """
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    folders = [argument for argument in arguments if argument not in overrides]
    own = settings.keys(Settings)
    others = [argument for argument in overrides if argument.partition("=")[0] not in own]
    if len(folders) > 1:
        raise ConfigError(f"An encoder is adapted for one run at a time, got {len(folders)}: {', '.join(folders)}.")
    if others and (folders or any(not is_key(argument.partition("=")[0]) for argument in others)):
        settings.parse(Settings, others, also=[] if folders else known_keys())  # says what is wrong
    chosen = settings.parse(Settings, [argument for argument in overrides if argument not in others])
    if chosen.sensors is not None:
        chosen.sensors = settings.sensor_names(chosen.sensors)
    elif chosen.pairs is None and chosen.recorded is None:
        raise ConfigError(
            f"Name the cameras to adapt to: sensors=[stereo] (there is: all, {', '.join(SENSORS)}), or pass "
            "recorded=SOURCE or pairs=FOLDER."
        )
    chosen.held_out = _held_out(chosen)
    if not folders and not others:
        raise ConfigError("Name a run, or an encoder and its task: defm-rl adapt encoder=resnet18 sensors=[stereo]")
    settings.at_least(frames=(chosen.frames, _MIN_FRAMES), every=(chosen.every, 1))
    return (Run(Path(folders[0])) if folders else None), chosen, others


def adapt(task: Task, chosen: Settings, output: Path) -> Adapted:
    """Collects frames, adapts, and writes the weights with their card and curve.

    Raises:
        ConfigError, ValueError: For what does not fit.
        KeyboardInterrupt: After what there is was kept, so that the same command goes on.
    """
    adaptation.check_parts(task.network, chosen.parts)
    real = None if chosen.recorded is None else _recorded(chosen.recorded, task.config, chosen)
    pairs = None if chosen.pairs is None else read_pairs(Path(chosen.pairs), task.config, chosen)
    frames = _frames(task, chosen)
    sensors: dict[str, Sensor] = {name: make_sensor(name) for name in chosen.sensors or ()}
    shown: dict[str, Any] = {}
    if real is not None:
        sensors["recorded"], shown = fit_recorded(task, frames, real)
    adapted = adaptation.adapt(
        task.network,
        frames,
        sensors,
        pairs=pairs,
        standardization=task.standardization,
        held_out_sensors=chosen.held_out,
        settings=adaptation.Settings(
            parts=chosen.parts,
            holes=chosen.holes,
            minutes=chosen.minutes,
            steps=chosen.steps,
            learning_rate=chosen.learning_rate,
            final_learning_rate=chosen.learning_rate / 100,
            seed=chosen.seed,
        ),
        checkpoint=_under_way(output),
    )
    if real is not None:
        after = recorded_gap(task.network, adapted.encoder, frames, real)
        adapted = replace(adapted, record={**adapted.record, "recorded": {**shown, "features_after": after}})
    made_for = f"policy of {task.run.folder.name}" if task.run is not None else "no policy in particular"
    adapted.save(output, note=f"Made for {task_name(task.config)}, {made_for}.")
    plots.losses(adapted.curve, list(adapted.record["sensors"]), output.with_suffix(".png"))
    return adapted


def fit_recorded(task: Task, frames: Frames, real: Frames) -> tuple[Stereo, dict[str, Any]]:
    """The simulated sensor that is fitted to a camera's frames, and what it was fitted to.

    The profile whose features are distributed most like those of the recorded frames is begun with, where it is one of
    stereo cameras, which have the parameters to fit; else the one that was itself fitted to a real camera.
    """
    ideal, recorded = _sample(frames), _sample(real)

    def encode(depth: NDArray[np.float32]) -> NDArray[np.float64]:
        return _encode(task.network, torch.from_numpy(depth)).double().numpy()

    gaps = feature_gap(encode, ideal.numpy(), list(SENSORS), recorded.numpy())
    nearest = nearest_to_recorded(gaps)
    stereo = [name for name, sensor in SENSORS.items() if isinstance(sensor, Stereo)]
    base = next((name for name in nearest if name in stereo), "stereo_ladder")
    fit = fit_sensor(recorded, ideal, base)
    figures = {name: asdict(getattr(fit, name)) for name in ("recorded", "before", "after")}
    _logger.info("Nearest simulated sensor: %s; fitted from %s to the recorded frames:", ", ".join(nearest), base)
    _logger.info("%-16s%10s%10s%10s", "", "recorded", base[:9], "fitted")
    for key in figures["recorded"]:
        _logger.info("%-16s%10.4f%10.4f%10.4f", key, *(figures[name][key] for name in figures))
    before = recorded_gap(task.network, task.network, frames, real)
    return fit.sensor, {"nearest": nearest, "base": base, "figures": figures, "features_before": before}


def recorded_gap(parent: torch.nn.Module, network: torch.nn.Module, frames: Frames, real: Frames) -> dict[str, float]:
    """How far a network's features of recorded frames are from the parent's of ideal ones; they have no counterparts.

    Returns:
        mmd (squared maximum mean discrepancy; 0: the same distribution) and nearest_cosine, see
        `defm_rl.experiments.report.features.Gap`; the scenes differ, so that neither can get to that of equal frames.
    """
    clean = _encode(parent, _sample(frames))
    standard = Standardization.of(clean).to(clean.device)

    def seen(features: torch.Tensor) -> NDArray[np.float64]:
        views = torch.zeros(len(features), dtype=torch.int64)
        return standard(features, views).clamp(-standard.clip, standard.clip).double().numpy()

    ideal, recorded = seen(clean), seen(_encode(network, _sample(real)))
    return {"mmd": mmd2(recorded, ideal), "nearest_cosine": nearest_cosine(recorded, ideal)}


def _sample(frames: Frames) -> torch.Tensor:
    """Some of the frames, spread over all, in metres."""
    index = np.linspace(0, len(frames) - 1, min(len(frames), _COMPARED)).astype(np.int64)
    return frames.metres(index, torch.device("cpu"))


@torch.no_grad()
def _encode(network: torch.nn.Module, depth: torch.Tensor) -> torch.Tensor:
    features: torch.Tensor = network.encode(depth) if isinstance(network, DepthEncoder) else network(depth)
    return features.float().cpu()


def read_pairs(folder: Path, config: Config, chosen: Settings) -> tuple[Frames, Frames]:
    """Recorded pairs: `clean/` and `seen/` with files of the same names, and in each as many frames.

    Raises:
        ConfigError: Where they are not there, or do not match.
    """
    parts = [folder / name for name in ("clean", "seen")]
    for part in parts:
        if not part.is_dir():
            raise ConfigError(f"pairs={folder} must hold the folders clean and seen, and {part} is not there.")
    names = [sorted(file.name for file in part.iterdir()) for part in parts]
    if names[0] != names[1]:
        odd = sorted(set(names[0]) ^ set(names[1]))
        raise ConfigError(
            f"pairs={folder}: {odd[0]} is in only one of clean and seen; each frame needs its counterpart."
        )
    loaded = [_recorded(part, config, chosen) for part in parts]
    if len(loaded[0]) != len(loaded[1]):
        raise ConfigError(f"pairs={folder}: {len(loaded[0])} clean frames, and {len(loaded[1])} that were seen.")
    return loaded[0], loaded[1]


def table(record: Mapping[str, Any]) -> str:
    """The losses before and after as aligned text."""
    lines = [f"{'camera':<24}{'before':>8}{'after':>8}"]
    for name, before in record["loss_before"].items():
        after = record["loss_after"][name]
        lines.append(f"{name:<24}{before:>8.3f}{after:>8.3f}  {adaptation.role(record, name)}")
    about = (
        f"Loss on held-out scenes after {record['steps']} steps, {record['seconds']:.0f} s; "
        f"{record['trained_parameters']:,} parameters trained"
    )
    if not record["kept_step"]:
        about += "; NOTHING was better than the encoder as it was: give it more minutes"
    if "recorded" in record:
        before, after = (record["recorded"][f"features_{when}"] for when in ("before", "after"))
        lines.append("Features of the recorded frames against those of ideal ones of the task:")
        lines += [f"{name:<24}{before[name]:>8.4f}{after[name]:>8.4f}" for name in before]
    return "\n".join([about, *lines])


def _task(run: Run | None, overrides: Sequence[str]) -> Task:
    threads = torch.get_num_threads()
    if run is not None:
        config, policy, encoder = load(run)
        torch.set_num_threads(threads)  # an encoder that is trained has use for all of them
        make_task(config.env).require(Ability.FRAMES)
        sensor = make_task(config.env).sensor
        if "noise" in make_sensor(sensor).effects:
            _logger.warning(
                "%s was trained behind %s, and the teacher is what its encoder makes of ideal frames, which the policy "
                "has never seen: expect little. Adapt a policy that was trained on ideal depth.",
                *(run.folder, sensor),
            )
        network = seeing_network(config, policy, encoder)
        return Task(config, network, run, policy, encoder if network is encoder else None)
    config = to_config(compose_config(overrides))
    if config.encoder.kind != "defm":
        raise ConfigError(f"encoder={config.encoder.kind} has no weights to adapt: name a DeFM encoder, or a run.")
    make_task(config.env).require(Ability.FRAMES)
    make_task(config.env).settle(config)
    encoder = environments.settle_weights(config.encoder, make_task(config.env).depth_size(config.encoder))
    assert encoder is not None
    return Task(config, encoder)


def _frames(task: Task, chosen: Settings) -> Frames:
    if chosen.clean is not None:
        return _recorded(chosen.clean, task.config, chosen, limit=chosen.frames)
    return task_frames(
        task.config,
        chosen.frames,
        task.policy,
        task.encoder,
        by=chosen.by,
        seed=chosen.seed,
        every=chosen.every,
    )


def _recorded(path: str | Path, config: Config, chosen: Settings, limit: int | None = None) -> Frames:
    size = make_task(config.env).depth_size(config.encoder)
    assert size is not None  # all cameras of the tasks that give frames have one
    found = load_recorded(path, size, unit=chosen.recorded_unit, max_depth_m=chosen.recorded_max_depth_m, limit=limit)
    if found.problems:
        raise ConfigError("\n  ".join(["Not every frame could be read:", *found.problems]))
    return Frames.of(found.frames)


def _held_out(chosen: Settings) -> list[str]:
    """Two cameras that say how much carries over to those that were not seen, unless others are named."""
    if chosen.held_out is not None:
        return [] if chosen.held_out == [] else settings.sensor_names(chosen.held_out)
    trained = chosen.sensors or ()
    return [name for name in ("redwood", "stereo_ladder", "zedx") if name not in trained][:2]


def _output(run: Run | None, chosen: Settings) -> Path:
    names = [*(chosen.sensors or ()), *(name for name in ("pairs", "recorded") if getattr(chosen, name))]
    name = "all" if set(SENSORS) <= set(names) else "-".join(names)
    folder = (run.folder if run is not None else Path("runs")) / "adapted"
    try:
        path = adaptation.check_output(chosen.output or folder / f"{name}.safetensors")
    except ValueError as error:
        raise ConfigError(f"output={chosen.output}: {error}") from error
    if path.exists():
        raise ConfigError(f"{path} is there already: remove it, or write to another file by output=FILE.safetensors.")
    return path


def _under_way(output: Path) -> Path:
    """What is kept on the way, to go on from."""
    return output.with_suffix(".partial")
