"""`defm-rl view SOURCE`: depth as a camera gives it and as an encoder sees it, on a page for a browser.

SOURCE is recorded depth (files, a ROS bag, a LeRobot or Hugging Face dataset), or a run, whose policy then plays.
Without it, a task is looked at: defm-rl view env=navigation env.level=boxes.
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defm_rl.commands import experiment_settings as settings
from defm_rl.commands.running import command
from defm_rl.encoders import DepthEncoder
from defm_rl.experiments.config import ConfigError, compose_config, is_key, known_keys, with_search_path
from defm_rl.experiments.environments import camera_keys
from defm_rl.experiments.evaluation import load
from defm_rl.experiments.frames import task_frames
from defm_rl.experiments.report.arms import task_name
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.view.looks import look
from defm_rl.experiments.view.page import write_page
from defm_rl.experiments.view.rerun_file import write_rerun
from defm_rl.recordings import Frame, read_frames
from defm_rl.recordings.loading import fitted

_logger = logging.getLogger(__name__)

_STEPS_BETWEEN = 3  # control steps between two frames of a task that are shown


@dataclass
class Settings:
    """What can be said as key=value; of a task, its own keys (env=, env.level=, ...) as well."""

    encoder: str = "resnet18"  # any that there is, or none
    weights: str = "hub"  # hub, random, or a file, adapted ones included
    maps: Any = None  # a list of maps; all that the encoder has without it
    bifpn: bool = True  # whether a CNN's maps are those after its BiFPN
    sensors: Any = None  # simulated cameras to see the same with: a list of names, or all
    frames: int = 16  # at the most, evenly spread
    largest_side: int = 320  # pixels; larger frames are sampled down to it
    recorded_unit: Any = None  # m, mm, the metres of one count, or inverse; needed for 8-bit images
    recorded_max_depth_m: float | None = None  # beyond it a pixel is a hole
    output: str = "view.html"  # or an .rrd file, for Rerun's viewer
    seed: int = 0


@command(
    "view",
    lambda: settings.usage("defm-rl view [SOURCE]", Settings, __doc__ or ""),
    *(TypeError, ValueError, ImportError),
)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    source, chosen, others = parse(with_search_path(arguments))
    _run(source, chosen, others)
    return 0


def parse(arguments: Sequence[str]) -> tuple[str | None, Settings, list[str]]:
    """The source, the settings, and the task's own overrides.

    Raises:
        ConfigError: For an unknown key, a value that does not fit, or nothing to look at.
    """
    sources = [x for x in arguments if "=" not in x or Path(x.partition("#")[0]).exists()]
    overrides = [x for x in arguments if x not in sources]
    own = settings.keys(Settings)
    others = [x for x in overrides if x.partition("=")[0] not in own]
    wrong = [x for x in others if not is_key(x.partition("=")[0])]
    if wrong or (others and sources):
        settings.parse(Settings, wrong or others, also=[] if sources else known_keys())  # says what is wrong
    chosen = settings.parse(Settings, [x for x in overrides if x not in others])
    if len(sources) > 1:
        raise ConfigError(f"Name one source, got {', '.join(sources)}.")
    if not sources and not others:
        raise ConfigError("Name what to look at: a recording, a run's folder, or a task by env=navigation.")
    chosen.sensors = [] if chosen.sensors is None else settings.sensor_names(chosen.sensors)
    settings.at_least(frames=(chosen.frames, 1), largest_side=(chosen.largest_side, 16))
    if Path(chosen.output).suffix not in (".html", ".rrd"):
        raise ConfigError(f"output={chosen.output}: there are .html (a page) and .rrd (a recording for Rerun).")
    return (sources[0] if sources else None), chosen, others


def _run(source: str | None, chosen: Settings, others: Sequence[str]) -> None:
    encoder = _encoder(chosen)
    frames, title = _frames(source, chosen, others)
    small = [_no_larger(frame.depth, chosen.largest_side) for frame in frames]
    looks = look(small, chosen.sensors, encoder, seed=chosen.seed)
    output = Path(chosen.output)
    if output.suffix == ".rrd":
        write_rerun(output, title, looks)
        _logger.info("Recording: %s; look at it by `rerun %s`.", output, output)
        return
    size = "x".join(map(str, frames[0].depth.shape))
    facts = {"frames": len(frames), "size": size, "encoder": "none" if encoder is None else encoder.encoder_name}
    if encoder is not None:
        random = encoder.provenance.source == "random"
        facts["weights"] = "RANDOM, not the published ones" if random else encoder.provenance.source
    write_page(output, title, [frame.name for frame in frames], looks, facts)
    _logger.info("Page: %s (%.1f MB)", output, output.stat().st_size / 1e6)


def _encoder(chosen: Settings) -> DepthEncoder | None:
    if chosen.encoder == "none":
        return None
    encoder = DepthEncoder(chosen.encoder, weights=chosen.weights, bifpn=chosen.bifpn, seed=chosen.seed)
    levels = list(chosen.maps) if isinstance(chosen.maps, list) else [chosen.maps] if chosen.maps else None
    levels = levels or list(encoder.card.levels)
    if not levels:
        raise ConfigError(f"{encoder.encoder_name} has no maps to look at: encoder=none shows depth alone.")
    return DepthEncoder(
        chosen.encoder, weights=chosen.weights, bifpn=chosen.bifpn, features=levels, network=encoder.net
    )


def _frames(source: str | None, chosen: Settings, others: Sequence[str]) -> tuple[list[Frame], str]:
    """What is looked at, and what it is called."""
    if source is None:
        config = to_config(compose_config(others))
        make_task(config.env).settle(config)
        return _played(chosen, config), task_name(config)
    if (Path(source) / "config.yaml").is_file():
        threads = torch.get_num_threads()
        config, policy, encoder = load(Run(Path(source)))
        torch.set_num_threads(threads)
        return _played(chosen, config, policy, encoder), f"{task_name(config)}, driven by {source}"
    unit, limit = chosen.recorded_unit, chosen.recorded_max_depth_m
    return list(read_frames(source, unit=unit, max_depth_m=limit, limit=chosen.frames)), source


def _played(chosen: Settings, config: Any, policy: Any = None, encoder: DepthEncoder | None = None) -> list[Frame]:
    """Ideal frames of a task in order of time, some control steps apart; of its first camera."""
    cameras = camera_keys(config.encoder)
    if not cameras:
        raise ConfigError(f"encoder={config.encoder.kind} sees no depth: there is nothing to look at.")
    by = "random" if policy is None else "policy"
    count = chosen.frames * len(cameras)
    found = task_frames(
        config, count, policy, encoder, by=by, seed=chosen.seed, num_envs=1, every=_STEPS_BETWEEN, noise=0.0
    )
    first = np.flatnonzero(found.views == 0)
    depth = found.metres(first, torch.device("cpu")).numpy()
    return [Frame(image, f"step {index}") for image, index in zip(depth, itertools.count(0, _STEPS_BETWEEN))]


def _no_larger(depth: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """The frame with neither side larger than this."""
    scale = side / max(depth.shape)
    if scale >= 1:
        return depth
    return fitted(depth[None], (max(1, round(depth.shape[0] * scale)), max(1, round(depth.shape[1] * scale))))[0]
