"""Fitting a stereo profile to frames that a real camera recorded, without knowing what it should have seen."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from defm_rl.sensors.camera import simulate
from defm_rl.sensors.profiles import Sensor, Stereo, make_sensor

_STEPS = 12  # of each bisection
_ROUNDS = 2  # over the parameters, which touch each other a little
_MAD = 1.4826  # from the median of absolute values to the deviation of a Gaussian
_SECOND_DIFFERENCE = math.sqrt(1.5)  # deviation of x - (a + b) / 2 where each of the three has deviation 1


@dataclass(frozen=True)
class Figures:
    """What single frames show of the camera that took them.

    Attributes:
        hole_share: Share of the pixels without depth.
        hole_length_px: Mean length of a row's runs of holes.
        inverse_sigma: Noise of inverse depth, 1/m: the robust deviation of its second differences, which are 0 on
            planes. A stereo camera's is the same at every distance, and its depth's noise this times z^2.
        near_m: One in a thousand pixels is nearer.
        far_m: One in a thousand is farther.
    """

    hole_share: float
    hole_length_px: float
    inverse_sigma: float
    near_m: float
    far_m: float

    @classmethod
    def of(cls, frames: Tensor) -> "Figures":
        """Those of frames (N, H, W) in metres, holes 0.

        Raises:
            ValueError: Where nothing is seen.
        """
        holes = frames <= 0
        if bool(holes.all()):
            raise ValueError("the frames see nothing: every pixel is a hole.")
        begins = holes.clone()
        begins[..., 1:] &= ~holes[..., :-1]
        runs = int(begins.sum())
        seen = frames[~holes]
        q = torch.where(holes, math.nan, 1 / frames.clamp(min=1e-6))
        difference = (q[..., 1:-1] - (q[..., 2:] + q[..., :-2]) / 2).abs()
        known = difference[difference.isfinite()]
        # Kth values rather than quantiles, which PyTorch limits to 16 million numbers.
        few = max(len(seen) // 1000, 1)
        return cls(
            hole_share=float(holes.float().mean()),
            hole_length_px=float(holes.sum()) / runs if runs else 0.0,
            inverse_sigma=_MAD * float(known.median()) / _SECOND_DIFFERENCE if len(known) else 0.0,
            near_m=float(seen.kthvalue(few).values),
            far_m=float(seen.kthvalue(len(seen) - few + 1).values),
        )


@dataclass(frozen=True)
class Fit:
    """A profile for recorded frames.

    Attributes:
        sensor: The profile.
        recorded: What the recorded frames show.
        before: What the base profile shows of the clean frames.
        after: What the fitted one does.
    """

    sensor: Stereo
    recorded: Figures
    before: Figures
    after: Figures


def fit_sensor(recorded: Tensor, clean: Tensor, base: str | Sensor = "stereo_ladder") -> Fit:
    """Sets a stereo profile's noise, holes and range so that its frames show the figures of recorded ones.

    The scenes may differ: only what the camera adds is compared, by figures that depend little on the scene. The
    farthest that a recording shows is taken to be the end of the camera's range, so that it should show far things;
    its holes are taken to be noise, and not what is beyond the range.

    Args:
        recorded: (N, H, W) metres, holes 0.
        clean: Ideal frames, (M, H, W) metres, of the same height and width.
        base: The profile to begin with: a `Stereo` one, by name or by itself.

    Raises:
        TypeError: Where the base is of another kind.
        ValueError: For frames of other sizes, or without any depth.
    """
    sensor = make_sensor(base) if isinstance(base, str) else base
    if not isinstance(sensor, Stereo):
        raise TypeError(f"only stereo profiles have the parameters that are fitted, got {type(sensor).__name__}")
    if recorded.shape[1:] != clean.shape[1:]:
        raise ValueError(f"recorded frames are {tuple(recorded.shape[1:])}, clean ones {tuple(clean.shape[1:])}")
    goal = Figures.of(recorded)
    before = _shown(sensor, clean)
    sensor = sensor.ranged(min(goal.near_m, goal.far_m / 2), goal.far_m)
    for _ in range(_ROUNDS):
        sensor = _bisected(
            lambda x, s=sensor: replace(s, disparity_sigma_px=x),  # type: ignore[misc]
            lambda s: _shown(s, clean).inverse_sigma - goal.inverse_sigma,
            (1e-3, 10.0),
        )
        if sensor.patch_share:
            sensor = _bisected(
                lambda x, s=sensor: replace(s, patch_size_px=x),  # type: ignore[misc]
                lambda s: _shown(s, clean).hole_length_px - goal.hole_length_px,
                (2.0, float(sensor.native_width_px)),
            )
        sensor = _with_hole_share(sensor, clean, goal.hole_share)
    return Fit(sensor, goal, before, _shown(sensor, clean))


def _with_hole_share(sensor: Stereo, clean: Tensor, goal: float) -> Stereo:
    """More or less of it in patches; where there are too many holes without any, fewer at edges and at random."""

    def excess(candidate: Stereo) -> float:
        return _shown(candidate, clean).hole_share - goal

    bare = replace(sensor, patch_share=0.0)
    if excess(bare) < 0:
        return _bisected(lambda x: replace(sensor, patch_share=x), excess, (1e-4, 0.95))
    edge_px, random = sensor.edge_width_px, sensor.hole_probability
    fewer = lambda x: replace(bare, edge_width_px=x * edge_px, hole_probability=x * random)  # noqa: E731
    return _bisected(fewer, excess, (1e-3, 1.0))


def _bisected(
    make: Callable[[float], Stereo], excess: Callable[[Stereo], float], limits: tuple[float, float]
) -> Stereo:
    """The sensor whose excess, which grows with the parameter, is nearest to 0; by halves in its logarithm."""
    low, high = (math.log(limit) for limit in limits)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(make(math.exp(middle))) > 0 else (middle, high)
    return make(math.exp((low + high) / 2))


def _shown(sensor: Sensor, clean: Tensor) -> Figures:
    """Holes of the scene itself and what is beyond the range do not count: they are the business of the scene."""
    seen = simulate(clean, sensor)
    if not bool((seen > 0).any()):
        return Figures(1.0, float(clean.shape[-1]), 0.0, 0.0, 0.0)
    within = (clean > 0) & (clean >= sensor.nearest_m) & (clean <= sensor.max_depth_m)
    depth = Figures.of(seen)
    outside = torch.where(clean > 0, clean, clean.max())
    return replace(Figures.of(torch.where(within, seen, outside)), near_m=depth.near_m, far_m=depth.far_m)
