"""Frames of a task's scenes, what an encoder makes of them, and pictures of both."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray

from defm_rl.depth import Unit
from defm_rl.encoders import DepthEncoder
from defm_rl.experiments.config import Config, ConfigError
from defm_rl.experiments.environments import camera_keys
from defm_rl.experiments.report.features import Gap, feature_gap, nearest_to_recorded
from defm_rl.experiments.report.recorded import Recording, load_recorded
from defm_rl.experiments.tasks import IDEAL, Ability, make_task
from defm_rl.observations import as_array
from defm_rl.recordings import spread
from defm_rl.sensors import simulate

MIN_FRAMES = 8
_ENVS = 32
_STEPS_BETWEEN = 4  # control steps between two frames of one environment
_HOLE = (0.13, 0.13, 0.13)

Picture = NDArray[np.uint8]
"""(H, W, 3)."""


@dataclass(frozen=True)
class Pair:
    """One camera's image of the scene that is shown, and the encoder's features of it as colours."""

    camera: str
    depth: Picture
    features: Picture
    hole_share: float


@dataclass(frozen=True)
class EncoderReport:
    """What becomes of one encoder's features behind other cameras.

    Attributes:
        summary: For report.json.
        pairs: For each camera a picture of the same scene.
        far_m: The depth that the last colour stands for.
        recorded: Pictures of recorded frames, as they were recorded.
        recorded_far_m: The depth that their last colour stands for.
    """

    summary: dict[str, Any]
    pairs: list[Pair]
    far_m: float
    recorded: list[Pair] = field(default_factory=list)
    recorded_far_m: float = 1.0


def scene_frames(config: Config, frames: int, first_layout: int) -> NDArray[np.float32]:
    """Ideal depth of numbered layouts, driven through by random actions; (frames, H, W) metres.

    Frames of one environment are next to each other, so that both halves are of different layouts. An environment gives
    several of each of its episodes, a few control steps apart.

    Raises:
        ConfigError: For too few frames to say anything.
        ValueError: For a setting that the task refuses.
    """
    if frames < MIN_FRAMES:
        raise ConfigError(f"frames must be at least {MIN_FRAMES}, got {frames}.")
    camera = camera_keys(config.encoder)[0]
    num_envs = min(_ENVS, frames)
    layouts = range(first_layout, first_layout + frames)
    task = make_task(config.env)
    task.require(Ability.FRAMES)
    env = task.make((camera,), sensor=IDEAL, num_envs=num_envs, layouts=layouts)
    try:
        env.action_space.seed(first_layout)
        taken = [as_array(env.reset(seed=first_layout)[0][camera])[:, 0]]
        while num_envs * len(taken) < frames:
            for _ in range(_STEPS_BETWEEN):
                observations, *_ = env.step(env.action_space.sample())
            taken.append(as_array(observations[camera])[:, 0])
    finally:
        env.close()
    by_environment = np.argsort(np.arange(frames) % num_envs, kind="stable")
    return np.concatenate(taken)[by_environment].astype(np.float32)


def recorded_frames(
    path: str, config: Config, unit: Unit | None, max_depth_m: float | None, limit: int
) -> tuple[Recording, dict[str, Any]]:
    """Recorded depth in the shape of a task's frames, and what report.json says of where it came from.

    Raises:
        ConfigError: Where there is none that can be read.
    """
    camera = make_task(config.env).cameras[camera_keys(config.encoder)[0]]
    size = camera.height, camera.width
    found = load_recorded(path, size, unit=unit, max_depth_m=max_depth_m, limit=limit)
    if len(found.frames) < 2:
        raise ConfigError(
            f"recorded={path} holds a single frame: sets of frames are compared, at least two are needed."
        )
    source = {"path": path, "files": found.files, "frames": len(found.frames), "problems": found.problems}
    return found, source


def report_encoder(
    encoder: DepthEncoder,
    task: str,
    ideal: NDArray[np.float32],
    sensors: Sequence[str],
    recorded: Recording | None = None,
    *,
    seed: int = 0,
) -> EncoderReport:
    """Figures and pictures of one encoder behind simulated sensors and, where there are any, recorded frames.

    Args:
        encoder: The encoder, frozen.
        task: What the ideal frames are of.
        ideal: (N, H, W) metres, as `scene_frames` gives them.
        sensors: Names of simulated sensors.
        recorded: As `recorded_frames` gives it.
        seed: Of the sensors' noise.
    """

    def encode(frames: NDArray[np.float32]) -> NDArray[np.float64]:
        return encoder.encode(frames).cpu().numpy().astype(np.float64)

    gaps: list[Gap] = feature_gap(encode, ideal, sensors, None if recorded is None else recorded.frames, seed=seed)
    scene = _most_telling(ideal)
    shown = {name: simulate(scene[None], name, seed=seed).numpy()[0] for name in dict.fromkeys(("ideal", *sensors))}
    pairs, far_m = _pictures(encoder, [spread(ideal, 64)], shown, scene)
    recorded_pairs, recorded_far_m = None, 1.0
    if recorded is not None:
        # Recorded frames need neither the task's size nor its range, and features of other places: all are their own.
        alone = {f"recorded, {x.shape[0]} x {x.shape[1]} pixels ({i + 1})": x for i, x in enumerate(recorded.originals)}
        everything = np.concatenate([frame.ravel() for frame in recorded.originals])
        recorded_pairs, recorded_far_m = _pictures(encoder, [x[None] for x in recorded.originals], alone, everything)
    summary = {
        "encoder": encoder.encoder_name,
        "task": task,
        "weights": encoder.provenance.source,
        "sha256": encoder.provenance.sha256,
        "features": list(encoder.features),
        "channels": encoder.feature_dim,
        "image_size": list(ideal.shape[1:]),
        "frames": len(ideal),
        "cameras": [dict(gap) for gap in gaps],
        "nearest_to_recorded": nearest_to_recorded(gaps),
    }
    return EncoderReport(summary, pairs, far_m, recorded_pairs or [], recorded_far_m)


def _pictures(
    encoder: DepthEncoder,
    fit: Sequence[NDArray[np.float32]],
    frames: Mapping[str, NDArray[np.float32]],
    range_of: NDArray[np.float32],
) -> tuple[list[Pair], float]:
    """Pictures of frames and the depth of their last colour: `fit` as in `feature_colours`, `range_of` any depth."""
    far_m = float(np.percentile(range_of[range_of > 0], 98)) if (range_of > 0).any() else 1.0
    colours = feature_colours(encoder, fit, frames)
    pairs = [
        Pair(name, depth_colours(frame, far_m), colours[name], float((frame == 0).mean()))
        for name, frame in frames.items()
    ]
    return pairs, far_m


def feature_colours(
    encoder: DepthEncoder, fit: Sequence[NDArray[np.float32]], frames: Mapping[str, NDArray[np.float32]]
) -> dict[str, Picture]:
    """The first three principal components of a feature map as red, green and blue.

    The components and their scale are those of the cells of the frames in `fit`: one projection for all pictures.

    Args:
        encoder: Its first map is shown; of a network without maps its vector, as the one cell that it has.
        fit: Batches (N, H, W) of any sizes, metres.
        frames: (H, W) metres, by name.
    """
    encoder = _with_a_map(encoder)
    level = next((name for name in encoder.features if name != "global"), None)

    def cells(depth: NDArray[np.float32]) -> NDArray[np.float64]:
        with torch.no_grad():
            found = encoder.encode(depth)[..., None, None] if level is None else encoder.maps(depth).maps[level]
        return found.permute(0, 2, 3, 1).cpu().numpy().astype(np.float64)

    known = np.concatenate([batch.reshape(-1, batch.shape[-1]) for batch in map(cells, fit)])
    mean = known.mean(axis=0)
    axes = np.linalg.svd(known - mean, full_matrices=False)[2][:3]
    axes *= np.sign(axes.sum(axis=1, keepdims=True))  # a component's sign is arbitrary: always the same one
    low, high = np.percentile((known - mean) @ axes.T, (2, 98), axis=0)
    return {
        name: _bytes((((cells(frame[None])[0] - mean) @ axes.T) - low) / np.maximum(high - low, 1e-12))
        for name, frame in frames.items()
    }


def depth_colours(depth: NDArray[np.float32], far_m: float) -> Picture:
    """Depth from 0 (yellow) to `far_m` and beyond (dark blue); holes are almost black."""
    colours = matplotlib.colormaps["viridis_r"](np.clip(depth / far_m, 0, 1))[..., :3]
    return _bytes(np.where(depth[..., None] > 0, colours, _HOLE))


def _with_a_map(encoder: DepthEncoder) -> DepthEncoder:
    """The encoder, or its like with a map where it gives global features only and could give one."""
    if any(name != "global" for name in encoder.features) or not encoder.card.levels:
        return encoder
    level = "P4" if "P4" in encoder.card.levels else encoder.card.levels[0]
    like = DepthEncoder(encoder.encoder_name, weights="random", features=level, bifpn=encoder.bifpn, size=encoder.size)
    like.net = encoder.net
    return like


def _most_telling(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """The frame with the most both near and far: the one in which cameras differ most."""
    near = np.median(frames[frames > 0]) if (frames > 0).any() else 1.0
    share = ((frames > 0) & (frames < near)).mean(axis=(1, 2))
    return frames[np.abs(share - 0.5).argmin()]


def _bytes(colours: NDArray[Any]) -> Picture:
    return (np.clip(colours, 0, 1) * 255).round().astype(np.uint8)
