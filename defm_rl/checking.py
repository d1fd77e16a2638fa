"""`check_env`: whether an environment's depth is what encoders and trainers take it for, and what to set where not."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray

from defm_rl.depth import DepthFormat, Unit, ZBuffer, as_tensor
from defm_rl.interfaces import is_sb3_vec_env
from defm_rl.observations import DepthLayout, depth_layouts, leaves

SUCCESS_KEYS = ("success", "is_success")
"""Where the last info of an episode says whether it succeeded."""

_FAR_M = 100.0  # no depth camera sees farther
_ENOUGH = 8  # frames, for what is said of the share of frames
_WINDOW = 12  # pixels a side of the patches that are held against planes
_FOVS_DEG = tuple(range(40, 131, 5))  # that are tried for Euclidean distances

Depth = NDArray[np.float32]


class Severity(Enum):
    """How bad it is."""

    ERROR = "error"  # what is learned from this is wrong
    WARNING = "warning"  # it probably is not what was meant
    NOTE = "note"  # good to know


@dataclass(frozen=True)
class Finding:
    """Something that an environment does.

    Attributes:
        severity: How bad it is.
        name: Of the kind, such as "units".
        message: What was seen, and what to set.
    """

    severity: Severity
    name: str
    message: str


@dataclass
class EnvReport:
    """What `check_env` found.

    Attributes:
        findings: The worst first.
        cameras: Figures of each depth observation: frames, height, width, nearest, median and farthest depth in
            metres, share of holes.
        seconds_per_step: Of one environment, whatever it does in it.
        frames: Some frames of each camera, (N, H, W) metres, for pictures.
    """

    findings: list[Finding] = field(default_factory=list)
    cameras: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds_per_step: float = 0.0
    frames: dict[str, Depth] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there are no errors and no warnings."""
        return all(finding.severity is Severity.NOTE for finding in self.findings)

    @property
    def errors(self) -> list[Finding]:
        """What makes learning from this wrong."""
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]

    def add(self, severity: Severity, name: str, message: str) -> None:
        """Adds a finding."""
        self.findings.append(Finding(severity, name, message))


def check_env(
    env: gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any],
    *,
    depth_keys: Sequence[str] | None = None,
    unit: Unit = "m",
    max_depth_m: float | None = None,
    z_buffer: ZBuffer | None = None,
    horizontal_fov_deg: float | None = None,
    success_key: str | None = None,
    steps: int = 200,
    seed: int = 0,
) -> EnvReport:
    """Steps an environment with random actions and looks at what it gives.

    It looks at units, scale, sign, holes and range of the depth, whether it is planar or Euclidean, upside down, or an
    OpenGL z-buffer; whether frames are stale; at spaces, seeds, autoreset, success, and at the time that things take.

    Args:
        env: A single or a vector environment. It is left open.
        depth_keys: What is depth in a Dict; nested keys as paths. Default: what looks like it.
        unit: Of the depth: "m", "mm" or metres per count.
        max_depth_m: Beyond this a pixel is a hole.
        z_buffer: The planes, where the depth is a z-buffer; `unit` then does not count.
        horizontal_fov_deg: Of the cameras, where it is known: it decides between planar and Euclidean depth.
        success_key: Where the last info says success. Default: one of `SUCCESS_KEYS`.
        steps: Steps to take, with random actions.
        seed: Of the resets and actions.

    Returns:
        What was found, the worst first; `report.ok` where nothing is wrong.

    Raises:
        TypeError: `env` is neither a single nor a vector environment of gymnasium.
    """
    if is_sb3_vec_env(env) or not isinstance(env, gymnasium.Env | VectorEnv):
        raise TypeError(
            f"check_env takes a gymnasium.Env or a gymnasium vector environment, got {type(env).__name__}: check what "
            "is inside it."
        )
    report = EnvReport()
    space = env.single_observation_space if isinstance(env, VectorEnv) else env.observation_space
    layouts = _layouts(space, depth_keys, report)
    try:
        depth_format = DepthFormat("m" if z_buffer else unit, max_depth_m)
        played = _play(env, layouts, depth_format, z_buffer, steps, seed, report)
    except _UnusableError as reason:
        report.add(Severity.ERROR, reason.name, str(reason))
        return _sorted(report)
    for key in layouts:
        frames = played.frames(key)
        report.frames[key] = frames[:: max(1, len(frames) // _ENOUGH)][:_ENOUGH]
        report.cameras[key] = _figures(frames)
        if z_buffer is not None and played.raw_range[key][1] > 1.0:
            report.add(
                Severity.ERROR,
                "z-buffer",
                f"{key!r} is no z-buffer: it goes up to {played.raw_range[key][1]:.4g}, and not to 1. Where it is in "
                "metres, leave out the planes (z_buffer=, env.near and env.far).",
            )
        _check_values(key, frames, played.raw_range[key], depth_format, report)
        if _is_drawn(key, played, report):
            _check_background(key, frames, report)
            _check_geometry(key, frames, horizontal_fov_deg, report)
    _check_episodes(played, success_key, steps, report)
    if not report.errors:
        _check_seeds(env, seed, report)
    if isinstance(env, VectorEnv):
        _check_autoreset(env, report)
    report.seconds_per_step = played.seconds_per_step
    return _sorted(report)


class _UnusableError(Exception):
    """Nothing more can be looked at."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(message)
        self.name = name


@dataclass
class _Played:
    """What was seen of some episodes."""

    depth: dict[str, list[Depth]]  # by camera, one (num_envs, H, W) for each observation
    first: list[NDArray[np.bool_]]  # which of its environments begin an episode with it
    raw_range: dict[str, tuple[float, float]]  # lowest and highest number as the environment gave it
    last_infos: list[Mapping[str, Any]]
    seconds_per_step: float

    def frames(self, key: str) -> Depth:
        """All frames of a camera."""
        return np.concatenate(self.depth[key])


def _layouts(space: spaces.Space[Any], depth_keys: Sequence[str] | None, report: EnvReport) -> dict[str, DepthLayout]:
    try:
        return depth_layouts(space, depth_keys)
    except ValueError as error:
        report.add(Severity.ERROR, "depth", str(error))
        return {}


def _play(
    env: Any,
    layouts: Mapping[str, DepthLayout],
    depth_format: DepthFormat,
    z_buffer: ZBuffer | None,
    steps: int,
    seed: int,
    report: EnvReport,
) -> _Played:
    """Takes random steps."""
    vector = isinstance(env, VectorEnv)
    env.action_space.seed(seed)
    observation, _ = env.reset(seed=seed)
    _check_space(env, observation, report)
    num_envs = env.num_envs if vector else 1
    mode = env.metadata.get("autoreset_mode") if vector else None
    played = _Played({key: [] for key in layouts}, [], dict.fromkeys(layouts, (np.inf, -np.inf)), [], 0.0)

    def see(observation: Any, first: NDArray[np.bool_]) -> None:
        parts = leaves(observation)
        for key, layout in layouts.items():
            given = as_tensor(parts[key]).cpu()
            images = layout.images(given if vector else given[None]).reshape(num_envs, layout.frames, *layout.size)[
                :, -1
            ]
            valid = images[images == images].double()
            low, high = played.raw_range[key]
            if valid.numel():
                played.raw_range[key] = min(low, float(valid.min())), max(high, float(valid.max()))
            try:
                images = images if z_buffer is None else z_buffer.metres(images)
                metres = depth_format.read(images, check_values=False)
            except TypeError as error:
                raise _UnusableError("units", f"{key!r}: {error}") from error
            played.depth[key].append(metres.nan_to_num(0.0, 0.0, 0.0).numpy())
        played.first.append(first)

    see(observation, np.ones(num_envs, bool))
    ended = np.zeros(num_envs, bool)
    started = time.perf_counter()
    spent = 0.0
    for _ in range(steps):
        before = time.perf_counter()
        observation, _, terminated, truncated, info = env.step(env.action_space.sample())
        spent += time.perf_counter() - before
        just_ended = ended
        ended = np.atleast_1d(np.asarray(terminated)) | np.atleast_1d(np.asarray(truncated))
        if ended.any():
            played.last_infos.append(info.get("final_info", info) if vector else info)
        if not vector:
            see(observation, np.zeros(1, bool))
            if ended[0]:
                observation, _ = env.reset()
                see(observation, np.ones(1, bool))
        elif mode == AutoresetMode.DISABLED:
            see(observation, np.zeros(num_envs, bool))
            if ended.any():
                observation, _ = env.reset(options={"reset_mask": ended.copy()})
                see(observation, ended)
        elif mode == AutoresetMode.SAME_STEP:
            if ended.any():
                see(_with_last(observation, info, ended), np.zeros(num_envs, bool))
            see(observation, ended)
        else:
            see(observation, just_ended)
        if time.perf_counter() - started > 60.0:
            report.add(Severity.NOTE, "speed", "stopped after a minute: the environment is slow.")
            break
    played.seconds_per_step = spent / max(len(played.first) - 1, 1) / num_envs
    return played


def _with_last(observation: Any, info: Mapping[str, Any], ended: NDArray[np.bool_]) -> dict[str, Any]:
    """A batch in which episodes that have ended show their last observation, and not the first of the next."""
    parts = {key: as_tensor(part).clone() for key, part in leaves(observation).items()}
    final: Any = info.get("final_obs")
    for index in np.flatnonzero(ended) if isinstance(final, np.ndarray) else ():
        for key, part in leaves(final[index]).items():
            parts[key][index] = as_tensor(np.asarray(part))
    return parts


def _check_space(env: Any, observation: Any, report: EnvReport) -> None:
    parts, boxes = leaves(observation), leaves(env.observation_space)
    for key, box in boxes.items():
        part = parts.get(key)
        if part is None:
            raise _UnusableError(
                "space", f"the observation has no {key!r}, which its space has: there is {', '.join(parts)}."
            )
        array = part.cpu().numpy() if isinstance(part, torch.Tensor) else np.asarray(part)
        if tuple(array.shape) != tuple(box.shape or ()):
            raise _UnusableError("space", f"{key!r} has shape {array.shape}, but its space says {box.shape}.")
        if isinstance(box, spaces.Box) and array.dtype != box.dtype:
            report.add(Severity.WARNING, "space", f"{key!r} is {array.dtype}, but its space says {box.dtype}.")
        elif (
            array.dtype.kind == "f"
            and np.isnan(array).any()
            and array.ndim - (1 if isinstance(env, VectorEnv) else 0) < 2
        ):
            report.add(Severity.ERROR, "nan", f"{key!r} holds NaN, which spreads through every network.")


def _figures(frames: Depth) -> dict[str, float]:
    valid = frames[frames > 0]
    nearest, median, farthest = np.percentile(valid, (0, 50, 100)) if valid.size else (0.0, 0.0, 0.0)
    return {
        "frames": len(frames),
        "height": frames.shape[1],
        "width": frames.shape[2],
        "nearest_m": float(nearest),
        "median_m": float(median),
        "farthest_m": float(farthest),
        "hole_share": float((frames <= 0).mean()),
    }


def _check_values(
    key: str, frames: Depth, raw: tuple[float, float], depth_format: DepthFormat, report: EnvReport
) -> None:
    """Units, scale, sign, holes."""
    valid = frames[frames > 0]
    if not valid.size:
        if raw[0] < 0:
            message = "is negative everywhere: flip its sign, as of a camera that looks along its negative z axis"
            report.add(Severity.ERROR, "sign", f"{key!r} {message}.")
        else:
            report.add(
                Severity.ERROR, "holes", f"{key!r} is empty in all {len(frames)} frames: the camera sees nothing."
            )
        return
    if raw[0] < 0:
        share = float((frames < 0).mean())
        report.add(
            Severity.WARNING, "sign", f"{key!r} has negative values ({share:.1%} of its pixels), which become holes."
        )
    if valid.min() > _FAR_M:
        report.add(Severity.ERROR, "units", f"{key!r}: {depth_format.far_message(float(valid.min()))}.")
    elif valid.max() <= 1.0:
        _check_scale(key, valid, report)
    empty = (frames > 0).reshape(len(frames), -1).any(1)
    if (~empty).sum() > 0 and valid.size:
        share = float((~empty).mean())
        report.add(Severity.WARNING, "holes", f"{key!r}: {share:.1%} of the frames are empty.")


def _check_scale(key: str, valid: Depth, report: EnvReport) -> None:
    """Depth that is nowhere beyond 1."""
    if np.median(valid) > 0.8 and np.percentile(valid, 5) > 0.3:
        report.add(
            Severity.ERROR,
            "z-buffer",
            f"{key!r} lies between {valid.min():.3g} and {valid.max():.3g}, most of it close to 1: it looks like an "
            "OpenGL z-buffer. Convert it: z = far * near / (far - d * (far - near)) (`defm-rl`: env.near, env.far).",
        )
        return
    report.add(
        Severity.WARNING,
        "scale",
        f"{key!r} never exceeds {valid.max():.3g}: it looks scaled to [0, 1], not in metres. Undo the scaling; ignore "
        "this if the camera never sees farther than 1 m.",
    )


def _check_background(key: str, frames: Depth, report: EnvReport) -> None:
    """One largest value that many pixels share: a far plane, where nothing was hit."""
    farthest = float(frames.max(initial=0.0))
    at_it = frames >= farthest * (1 - 1e-6)
    share = float(at_it.mean())
    second = frames[~at_it & (frames > 0)]
    if share < 0.02 or not second.size or second.max() > 0.9 * farthest or farthest > _FAR_M:
        return
    report.add(
        Severity.NOTE,
        "background",
        f"{key!r}: {share:.1%} of the pixels are exactly {farthest:.4g} m, and nothing else is beyond "
        f"{second.max():.4g} m: probably where nothing was hit. To make holes of it, as a real camera has them: "
        f"max_depth_m={np.floor(0.99 * farthest * 100) / 100:.4g}.",
    )


def _check_geometry(key: str, frames: Depth, fov_deg: float | None, report: EnvReport) -> None:
    """Whether planes are planes, and the ground below."""
    chosen = frames[:: max(1, len(frames) // 24)][:24]
    planar = _plane_error(chosen, None)
    if planar is not None and planar > 2e-4:
        errors = {fov: _plane_error(chosen, fov) for fov in ((fov_deg,) if fov_deg else _FOVS_DEG)}
        fov, error = min(((f, e) for f, e in errors.items() if e is not None), key=lambda pair: pair[1])
        if error < 0.2 * planar:
            report.add(
                Severity.ERROR,
                "euclidean",
                f"{key!r} looks like distances along rays, with a horizontal field of view of about {fov:.0f} degrees: "
                "planes in it are bent. The encoders take planar depth, along the optical axis: divide by "
                "sqrt(1 + x^2 + y^2), with x and y the tangents of a pixel's angles, or ask the simulator for it.",
            )
    third = frames.shape[1] // 3
    top, bottom = (_median_rows(part) for part in (frames[:, :third], frames[:, -third:]))
    if top and bottom and top < 0.6 * bottom:
        report.add(
            Severity.WARNING,
            "flipped",
            f"{key!r}: the upper third is nearer ({top:.3g} m) than the lower one ({bottom:.3g} m). Is the image "
            "upside down (OpenGL's rows begin at the bottom)? Look at the picture.",
        )


def _median_rows(frames: Depth) -> float:
    valid = frames[frames > 0]
    return float(np.median(valid)) if valid.size else 0.0


def _plane_error(frames: Depth, fov_deg: float | None) -> float | None:
    """How far the flattest patches are from planes; None where there are none to judge by.

    The inverse of planar depth is linear in the pixel's coordinates on every plane (a plane n x = 1 seen along rays
    (u, v, 1) z gives 1 / z = n (u, v, 1)); that of a distance along rays is not.

    Args:
        frames: (N, H, W).
        fov_deg: Taken for distances along rays with this horizontal field of view, and made planar; None: as they are.
    """
    height, width = frames.shape[1:]
    v, u = np.mgrid[:height, :width].astype(np.float64)
    depth = frames.astype(np.float64)
    if fov_deg is not None:
        scale = np.tan(np.radians(fov_deg) / 2) / (width / 2)
        x, y = (u - (width - 1) / 2) * scale, (v - (height - 1) / 2) * scale
        depth = depth / np.sqrt(1 + x**2 + y**2)
    size_v, size_u = max(_WINDOW, height // 3), max(_WINDOW, width // 3)
    if height < size_v or width < size_u:
        return None
    errors = []
    for top in range(0, height - size_v + 1, max(size_v // 2, 1)):
        for left in range(0, width - size_u + 1, max(size_u // 2, 1)):
            window = np.s_[top : top + size_v, left : left + size_u]
            patches = depth[(slice(None), *window)].reshape(len(depth), -1)
            whole = (patches > 0).all(1)
            if not whole.any():
                continue
            inverse = 1 / patches[whole].T
            basis = np.stack([u[window].ravel(), v[window].ravel(), np.ones(size_u * size_v)], 1)
            fitted = basis @ np.linalg.lstsq(basis, inverse, rcond=None)[0]
            errors.append(np.sqrt(((fitted - inverse) ** 2).mean(0)) / inverse.mean(0))
    if not errors:
        return None
    found = np.sort(np.concatenate(errors))
    # The flattest tenth: these are planes, if there are any in sight.
    return float(found[: max(3, len(found) // 10)].mean()) if found[min(2, len(found) - 1)] < 0.05 else None


def _is_drawn(key: str, played: _Played, report: EnvReport) -> bool:
    """Whether frames change at all; says so where those after a reset are of the episode before."""
    depth = np.stack(played.depth[key])
    same = (depth[1:] == depth[:-1]).all((2, 3)) & (depth[1:] > 0).any((2, 3))
    first = np.stack(played.first)[1:]
    if same.size >= _ENOUGH and same.all():
        report.add(Severity.ERROR, "stale", f"{key!r} never changes: the camera is not drawn again.")
        return False
    begins = int(first.sum())
    # Where nothing moves within an episode, episodes may well look alike.
    moves = same[~first].mean() < 0.5 if not first.all() else False
    if begins and moves and (same & first).sum() >= max(1, begins // 2):
        report.add(
            Severity.ERROR,
            "stale after reset",
            f"{key!r}: in {int((same & first).sum())} of {begins} resets the first frame is the last of the episode "
            "before: draw the camera again after a reset (in Isaac Lab: render once more, or delay no frame).",
        )
    return True


def _check_episodes(played: _Played, success_key: str | None, steps: int, report: EnvReport) -> None:
    if not played.last_infos:
        report.add(
            Severity.NOTE, "episodes", f"no episode ended in {steps} steps: pass more steps= to see what its end tells."
        )
        return
    info = played.last_infos[-1]
    keys = (success_key,) if success_key else SUCCESS_KEYS
    if not any(key in info or key in leaves(info) for key in keys):
        known = ", ".join(key for key in info if not key.startswith("_")) or "nothing"
        report.add(
            Severity.ERROR if success_key else Severity.NOTE,
            "success",
            f"the last info of an episode has none of {', '.join(keys)} (it has {known}): without success, policies "
            "are compared by their reward. Name the key where there is one (success_key=, env.success_key).",
        )


def _check_seeds(env: Any, seed: int, report: EnvReport) -> None:
    """Whether the same seed and actions give the same episode, and another seed another."""

    def begun(seed: int) -> list[NDArray[Any]]:
        env.action_space.seed(seed)
        seen = [env.reset(seed=seed)[0]]
        seen += [env.step(env.action_space.sample())[0] for _ in range(3)]
        return [
            x.cpu().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for o in seen for x in leaves(o).values()
        ]

    def alike(a: list[NDArray[Any]], b: list[NDArray[Any]]) -> bool:
        return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))

    once, again, other = begun(seed), begun(seed), begun(seed + 1_000)
    if not alike(once, again):
        report.add(
            Severity.WARNING,
            "seeds",
            "the same seed and actions give other observations: policies cannot be compared on the same episodes. Draw "
            "all that is random from self.np_random, which reset(seed=...) seeds.",
        )
    elif alike(once[: len(once) // 4], other[: len(other) // 4]):
        report.add(Severity.NOTE, "seeds", "every episode begins alike, whatever the seed.")


def _check_autoreset(env: VectorEnv[Any, Any, Any], report: EnvReport) -> None:
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        said = "does not say how it resets" if mode is None else f"resets by {getattr(mode, 'value', mode)}"
        report.add(
            Severity.NOTE,
            "autoreset",
            f"it {said}: Stable-Baselines3 and RSL-RL (and `defm-rl`) need SameStep, "
            "autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP.",
        )


def _sorted(report: EnvReport) -> EnvReport:
    order: Callable[[Finding], int] = lambda finding: list(Severity).index(finding.severity)  # noqa: E731
    report.findings.sort(key=order)
    return report
