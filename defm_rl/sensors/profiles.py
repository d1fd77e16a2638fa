"""The named depth cameras: each a frozen set of parameters with units, a source, and what it does to one frame.

Figures are the published ones unless the description of a parameter says "fitted" or "our reading".
"""

import difflib
import math
from dataclasses import dataclass, fields, replace
from statistics import NormalDist
from typing import Any, ClassVar

import torch
from torch import Tensor

from defm_rl.kernels import cpu_sensors
from defm_rl.plugins import load_plugins
from defm_rl.sensors import operators as op
from defm_rl.sensors.noise import Noise

Range = tuple[float, float]

EFFECTS = ("noise", "range", "latency", "frame_rate")
"""What a camera can take from a policy."""

PLUGINS = "defm_rl.sensors"
"""The entry point group of packages that register sensors."""

_WITHOUT = "_without_"


@dataclass(frozen=True, kw_only=True)
class Sensor:
    """A depth camera. Called with clean depth it gives what the camera would measure.

    Holes are 0, coming in and going out; a hole is never filled. What is measured outside of the range is a hole.

    Attributes:
        min_depth_m: The nearest depth that is measured.
        max_depth_m: The farthest.
        latency_s: Least and largest age of a frame when it arrives; drawn once per episode.
        delay_steps: The same in control steps, both ends included, in addition.
        frame_rate_hz: Frames per second, where that is slower than the control.
    """

    source: ClassVar[str] = ""

    min_depth_m: float = 0.0
    max_depth_m: float = math.inf
    latency_s: Range = (0.0, 0.0)
    delay_steps: tuple[int, int] = (0, 0)
    frame_rate_hz: float = math.inf

    def __post_init__(self) -> None:
        if not 0 <= self.min_depth_m < self.max_depth_m:
            raise ValueError(f"a sensor sees from {self.min_depth_m} to {self.max_depth_m} m: that is no range")
        for name in ("latency_s", "delay_steps"):
            low, high = getattr(self, name)
            if not 0 <= low <= high < math.inf:
                raise ValueError(f"{name} must be (least, largest), both at least 0; got {(low, high)}")
        if not self.frame_rate_hz > 0:
            raise ValueError(f"frame_rate_hz must be positive, got {self.frame_rate_hz}")
        for field in fields(self):
            if field.name.endswith(("_share", "_probability")) and not 0 <= getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} must be in [0, 1), got {getattr(self, field.name)}")

    def __call__(self, depth: Tensor, noise: Noise) -> Tensor:
        """Measures a batch of frames.

        Args:
            depth: (B, H, W), floating, planar metres, 0 where there is none; as `check_depth` gives it.
            noise: The random numbers of these frames.

        Returns:
            (B, H, W), of the dtype and on the device of `depth`; computed in float32.
        """
        clean = depth.float()
        seen = self.measure(clean, noise)
        return op.within(seen, max(self.min_depth_m, 1e-6), self.max_depth_m, clean).to(depth.dtype)

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """What is measured, before range and holes: (B, H, W) float32 to the same; no branch on values."""
        raise NotImplementedError

    @property
    def effects(self) -> tuple[str, ...]:
        """What stands between the truth and what it gives: some of `EFFECTS`."""
        there = {
            "noise": not isinstance(self, Ideal),
            "range": self.nearest_m > 0 or self.max_depth_m < math.inf,
            "latency": self.latency_s[1] > 0 or self.delay_steps[1] > 0,
            "frame_rate": self.frame_rate_hz < math.inf,
        }
        return tuple(effect for effect in EFFECTS if there[effect])

    def without(self, effect: str) -> "Sensor":
        """The same sensor with one of its effects switched off; without noise it measures the truth within its range.

        Raises:
            ValueError: For an effect that it does not have.
        """
        if effect not in self.effects:
            raise ValueError(f"the sensor has no {effect!r} to be without{_suggestion(effect, list(self.effects))}")
        if effect == "range":
            return self._everywhere()
        if effect == "latency":
            return replace(self, latency_s=(0.0, 0.0), delay_steps=(0, 0))
        if effect == "frame_rate":
            return replace(self, frame_rate_hz=math.inf)
        shared = {field.name: getattr(self, field.name) for field in fields(Sensor)}
        return Ideal(**{**shared, "min_depth_m": self.nearest_m})

    @property
    def nearest_m(self) -> float:
        """The nearest depth that is measured, by whatever it is limited."""
        return self.min_depth_m

    def ranged(self, near_m: float, far_m: float) -> "Sensor":
        """The same sensor with the range from `near_m` to `far_m`, whatever limits its own."""
        return replace(self, min_depth_m=near_m, max_depth_m=far_m)

    def _everywhere(self) -> "Sensor":
        """Measures at any depth, as within its range."""
        timing = {name: getattr(self, name) for name in ("latency_s", "delay_steps", "frame_rate_hz")}
        return _Unlimited(inner=self, **timing)


@dataclass(frozen=True, kw_only=True)
class Ideal(Sensor):
    """A camera without errors; what is beyond the range is a hole."""

    source: ClassVar[str] = "definition"

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """The depth itself."""
        return depth

    def _everywhere(self) -> Sensor:
        return self.ranged(0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class Redwood(Sensor):
    """Kinect v1 as in the Redwood benchmark and Habitat, without the per-pixel distortion table.

    z' = c s / round((c / z + N(0, sigma)) s), with c the disparity constant and s the steps per pixel.

    Attributes:
        disparity_constant_m_px: c, focal length times baseline.
        disparity_steps_per_px: s.
        disparity_sigma_px: sigma.
        jitter_sigma_px: Each pixel reads another that far away.
    """

    source: ClassVar[str] = "Choi, Zhou, Koltun, CVPR 2015; after Handa et al., ICRA 2014; constants as in habitat-sim"

    max_depth_m: float = 10.0
    disparity_constant_m_px: float = 35.13
    disparity_steps_per_px: float = 8.0
    disparity_sigma_px: float = 0.02778
    jitter_sigma_px: float = 0.25

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """Jitter, then disparity with noise, rounded."""
        settings = self.disparity_constant_m_px, self.disparity_sigma_px, self.disparity_steps_per_px
        if noise.has_kernels(depth):
            jitter_px = self.jitter_sigma_px
            return cpu_sensors.measure("redwood", depth, noise.take(4), jitter_px, *settings, self.max_depth_m)
        (depth,) = op.shift_pixels(depth, noise, self.jitter_sigma_px)
        seen = op.triangulate(depth, noise.normal(*depth.shape[1:]), *settings)
        # At max_depth_m itself the published code already writes a hole, and it looks at the depth before the noise.
        return op.choose(depth, op.MORE_THAN_0, self.max_depth_m, seen)

    def _everywhere(self) -> Sensor:
        return self.ranged(0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class KinectNguyen(Sensor):
    """Kinect v1 with noise that depends on depth and on the angle of the surface.

    Axial sigma: 0.0012 + 0.0019 (z - 0.4)^2 + 0.0001 / sqrt(z) (t / (pi/2 - t))^2 metres; lateral sigma:
    0.8 + 0.035 t / (pi/2 - t) pixels, where t is the angle between ray and surface normal.

    Attributes:
        min_depth_m: The nearest at which the formula was measured.
        max_depth_m: The farthest at which it was.
        horizontal_fov_deg: Of the images, to find the surface's angle.
        native_width_px: The width to which the lateral sigma belongs; it shrinks with smaller images.
        max_angle_deg: Steeper surfaces count as this steep: the formula grows without bound.
    """

    source: ClassVar[str] = "Nguyen, Izadi, Lovell, 3DIMPVT 2012"

    min_depth_m: float = 0.4
    max_depth_m: float = 3.0
    horizontal_fov_deg: float = 57.0
    native_width_px: int = 640
    max_angle_deg: float = 80.0

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """Lateral noise, then axial noise."""
        focal_px = op.focal_length_px(depth.shape[2], self.horizontal_fov_deg)
        scale = depth.shape[2] / self.native_width_px
        max_angle = math.radians(self.max_angle_deg)
        if noise.has_kernels(depth):
            settings = focal_px, max_angle, 0.8 * scale, 0.035 * scale
            return cpu_sensors.measure("kinect_nguyen", depth, noise.take(4), *settings)
        angle = op.surface_angle(depth, focal_px).clamp_(max=max_angle)
        steep = angle / (math.pi / 2 - angle)
        lateral_px = (steep * (0.035 * scale)).add_(0.8 * scale)
        seen, steep = op.shift_pixels(depth, noise, lateral_px, steep)
        error_m = noise.normal(*seen.shape[1:]).mul_(self.axial_sigma_m(seen, steep))
        return op.choose(seen, op.MORE_THAN_0, math.inf, error_m.add_(seen))

    @staticmethod
    def axial_sigma_m(depth: Tensor, steep: Tensor) -> Tensor:
        """The formula's first line; `steep` is t / (pi/2 - t)."""
        safe = depth.clamp(min=1e-3)
        axial = (safe - 0.4).square_().mul_(0.0019).add_(0.0012)
        return axial.addcmul_(steep.square(), safe.rsqrt_(), value=1e-4)


@dataclass(frozen=True, kw_only=True)
class Stereo(Sensor):
    """An active stereo camera such as Intel's RealSense D435; its left image is the depth image.

    Disparity f B / z gets noise sigma_d, so that sigma_z = z^2 sigma_d / (f B), and is rounded. Without partner in
    the right image, and so a hole, is what an object in front hides from it (the shadow to its left) and a band at the
    left border that is f B / z wide. Pixels near jumps of disparity and patches that persist for some frames can be
    lost, too; both are off by default, since nobody has published figures.

    Attributes:
        horizontal_fov_deg: Intel's data sheet for D435 depth.
        baseline_m: The same.
        native_width_px: Width at which disparity is matched; it defines "px" in all parameters here.
        max_disparity_px: Search range; f B divided by it is the nearest depth (Intel's white paper).
        disparity_sigma_px: Keselman et al. give 0.05 to 0.1.
        disparity_steps_per_px: The D4 chip's subpixel steps.
        hole_probability: Of each pixel; published: 1 to 3 %.
        occlusion: Whether what only one camera sees is lost.
        edge_width_px: How far around a jump in disparity matching fails (fitted where it is not 0).
        edge_jump_px: The jump between neighbours from which on that happens.
        patch_share: Share of the image lost in patches without texture (fitted where it is not 0).
        patch_size_px: How smooth their outlines are.
        patch_frames: For how many frames a patch stays: bursts.
    """

    source: ClassVar[str] = "Keselman et al., CVPRW 2017; Intel, tuning white paper and D400 data sheet"

    max_depth_m: float = 10.0
    horizontal_fov_deg: float = 87.0
    baseline_m: float = 0.05
    native_width_px: int = 848
    max_disparity_px: float = 126.0
    disparity_sigma_px: float = 0.08
    disparity_steps_per_px: float = 32.0
    hole_probability: float = 0.02
    occlusion: bool = True
    edge_width_px: float = 0.0
    edge_jump_px: float = 1.0
    patch_share: float = 0.0
    patch_size_px: float = 20.0
    patch_frames: int = 10

    @property
    def disparity_constant_m_px(self) -> float:
        """Focal length times baseline."""
        return op.focal_length_px(self.native_width_px, self.horizontal_fov_deg) * self.baseline_m

    @property
    def nearest_m(self) -> float:
        """Where the disparity reaches the end of the search."""
        return max(self.min_depth_m, self.disparity_constant_m_px / self.max_disparity_px)

    def ranged(self, near_m: float, far_m: float) -> "Stereo":
        """Searches as far as the nearest depth needs, too, but no wider than the image."""
        needed_px = min(self.disparity_constant_m_px / max(near_m, 1e-6), float(self.native_width_px))
        largest_px = max(self.max_disparity_px, needed_px)
        return replace(self, min_depth_m=near_m, max_depth_m=far_m, max_disparity_px=largest_px)

    def _everywhere(self) -> Sensor:
        """Searches over the whole width, too."""
        return Sensor._everywhere(replace(self, max_disparity_px=float(self.native_width_px)))

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """Disparity with noise, rounded; then the holes."""
        _, height, width = depth.shape
        scale = width / self.native_width_px
        constant = self.disparity_constant_m_px
        settings = constant, self.disparity_sigma_px, self.disparity_steps_per_px, self.max_disparity_px
        # In pixels of this image; small ones have steps on slopes.
        image_constant, largest_px = constant * scale, self.max_disparity_px * scale
        edges_px = max(self.edge_jump_px * scale, op.STEEPEST_SURFACE), self.edge_width_px * scale
        if noise.has_kernels(depth):
            numbers, field = noise.take(3), self._patch_field(noise, height, width)
            holes = self.hole_probability, field, self._patch_cut
            of_image = image_constant, largest_px, op.STEEPEST_SURFACE, self.occlusion, *edges_px
            return cpu_sensors.measure("stereo", depth, numbers, *settings, *holes, *of_image)
        seen = op.triangulate(depth, noise.normal(height, width), *settings)
        chance = noise.uniform(height, width)
        seen = op.choose(chance, self.hole_probability, 1.0, seen)
        if self.occlusion or self.edge_width_px:
            disparity = op.inverse(depth).mul_(image_constant)
            # The uniform numbers above the hole probability are used again: they are still uniform among those left.
            rest = (chance - self.hole_probability) / (1 - self.hole_probability)
        if self.occlusion:
            seen = seen.where(~op.occluded(disparity, largest_px, 0.5 - rest), 0.0)
        if self.edge_width_px:
            again = (rest * 997).frac_()  # independent enough of the dither, and far cheaper than another draw
            seen = seen.where(~op.near_edges(disparity, *edges_px, again), 0.0)
        field = self._patch_field(noise, height, width)
        return seen if field is None else op.choose(field, self._patch_cut, math.inf, seen)

    def _patch_field(self, noise: Noise, height: int, width: int) -> Tensor | None:
        """(B, H, W): patches are where it is below `_patch_cut`."""
        size_px = self.patch_size_px * width / self.native_width_px
        return op.smooth_field(noise.held(self.patch_frames), height, width, size_px) if self.patch_share else None

    @property
    def _patch_cut(self) -> float:
        return NormalDist().inv_cdf(self.patch_share) if self.patch_share else -math.inf


@dataclass(frozen=True, kw_only=True)
class ZedX(Sensor):
    """Stereolabs ZED X as simulated for navigation: matching fails where disparity differs from its surroundings.

    Disparity is compared with its weighted mean over 3x3 pixels; where the difference, standardised over the image, is
    below a threshold, a pixel matches with some probability. Threshold and probability are drawn for every frame. Each
    pixel then is the mean of the matches among its 3x3 pixels; where there are none, a hole.

    Attributes:
        focal_length_px: Of images of native width.
        native_width_px: The width to which the focal length belongs; it scales with the image.
        baseline_m: Distance of the two cameras.
        disparity_steps_per_px: Subpixel steps.
        match_chance: Least and largest.
        match_threshold: Least and largest, in standard deviations above the mean difference.
    """

    source: ClassVar[str] = "leggedrobotics/sru-navigation-sim, depth noise of the navigation task"

    min_depth_m: float = 0.25
    max_depth_m: float = 10.0
    delay_steps: tuple[int, int] = (0, 2)
    focal_length_px: float = 25.0
    native_width_px: int = 64
    baseline_m: float = 0.12
    disparity_steps_per_px: float = 32.0
    match_chance: Range = (0.4, 0.6)
    match_threshold: Range = (0.01, 0.05)

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """Matching, then filling from the neighbours."""
        _, height, width = depth.shape
        constant = self.focal_length_px * width / self.native_width_px * self.baseline_m
        if noise.has_kernels(depth):
            ranges = (number for low, high in (self.match_threshold, self.match_chance) for number in (low, high - low))
            settings = constant, self.disparity_steps_per_px, *ranges
            return cpu_sensors.measure("zedx", depth, noise.take(2), *settings)
        disparity = op.inverse(depth).mul_(constant)
        difference = op.difference_from_surroundings(disparity)
        spread, mean = op.spread_and_mean(difference)
        per_frame = noise.uniform(2, 1, 1)
        low, high = self.match_threshold
        threshold = mean + (low + (high - low) * per_frame[:, 0]) * (spread + 1e-6)
        low, high = self.match_chance
        chance = noise.uniform(height, width).sub_(low + (high - low) * per_frame[:, 1])
        matched = op.choose(difference.sub_(threshold), -math.inf, 0.0, 1.0)
        matched = op.choose(chance, -math.inf, 0.0, matched)
        matched = op.choose(depth, op.MORE_THAN_0, math.inf, matched)
        total = op.box_sum(op.quantise(disparity, self.disparity_steps_per_px).mul_(matched))
        return op.inverse(total.div_(op.box_sum(matched).clamp_(min=1.0))) * constant


@dataclass(frozen=True, kw_only=True)
class RealSenseParkour(Sensor):
    """RealSense as simulated in Robot Parkour Learning: noise in two ranges, and artefacts on what is too close.

    Columns in which most pixels are too close show blocks of wrong depth; elsewhere too close pixels are holes, with
    sparks at the far end of the range.

    Attributes:
        near_sigma_m: Noise up to `far_from_m`.
        far_sigma_m: Noise beyond.
        far_from_m: Where one ends and the other begins.
        too_close_m: Where stereo matching fails.
        column_share: From this share of too close pixels on, a column shows blocks.
        block_probability: Of a block beginning at a pixel, for each of `block_values_m`.
        block_values_m: The depths that blocks show.
        block_height_px: At 64 pixels of width and in proportion otherwise.
        block_width_px: The same.
        spark_probability: Of each too close pixel outside of blocks.
    """

    source: ClassVar[str] = "Zhuang et al., Robot Parkour Learning, CoRL 2023, and its code"

    max_depth_m: float = 1.5
    latency_s: Range = (0.20, 0.26)
    frame_rate_hz: float = 10.0
    near_sigma_m: float = 0.02
    far_sigma_m: float = 0.08
    far_from_m: float = 2.0
    too_close_m: float = 0.175
    column_share: float = 0.6
    block_probability: float = 0.008
    block_values_m: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 3.0)
    block_height_px: int = 62
    block_width_px: int = 3
    spark_probability: float = 0.02

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """Noise, then artefacts."""
        _, height, width = depth.shape
        # The largest of the random numbers within a block's reach tells which depth it shows.
        probability = min(self.block_probability * len(self.block_values_m), 1.0)
        factor = 9973.0 * len(self.block_values_m)
        block_px = [max(round(size * width / 64), 1) for size in (self.block_height_px, self.block_width_px)]
        if noise.has_kernels(depth):
            sigmas_m = self.near_sigma_m, self.far_sigma_m, self.far_from_m
            close = self.max_depth_m, self.spark_probability, self.too_close_m, self.column_share
            values_m = torch.tensor(self.block_values_m), len(self.block_values_m), factor
            numbers, order = noise.take(3), (probability, *block_px)
            return cpu_sensors.measure("realsense_parkour", depth, numbers, *sigmas_m, *close, *order, *values_m)
        sigma_m = op.choose(depth, -math.inf, op.above(self.far_from_m), self.near_sigma_m, self.far_sigma_m)
        seen = noise.normal(height, width).mul_(sigma_m).add_(depth)
        chance = noise.uniform(height, width)
        sparks = op.choose(chance, 0.0, self.spark_probability, self.max_depth_m)
        starts = op.choose(chance, 0.0, probability, chance / probability)
        largest = op.running_max(op.running_max(starts, block_px[0], 1), block_px[1], 2)
        blocks = op.pick(largest, self.block_values_m, factor)
        too_close = op.choose(depth, op.MORE_THAN_0, self.too_close_m, 1.0)
        share = too_close.mean(1, keepdim=True).expand_as(depth)
        artefacts = op.choose(share, op.above(self.column_share), math.inf, blocks, sparks)
        return op.choose(too_close, 1.0, math.inf, artefacts, seen)


@dataclass(frozen=True, kw_only=True)
class Dextrah(Sensor):
    """Depth randomization for grasping with a fixed camera: shifts, disparity noise, dropout, wrong depths, sticks.

    The formula is applied as it is meant: z = c s / round(c s / z + N(0, sigma)), 3.6 mm steps at 1 m. (The published
    code applies the constant to other units.)

    Attributes:
        shift_sigma_px: Bilinear shift of each pixel, sigma_s.
        disparity_sigma_steps: sigma_d, in steps of disparity.
        disparity_constant_m_px: c.
        disparity_steps_per_px: s.
        normal_sigma_m: Independent noise on top (our reading: metres along the optical axis).
        dropout_probability: Of a hole at each pixel.
        random_probability: Of a depth anywhere in the range at each pixel.
        stick_probability: Of a stick beginning at each pixel.
        stick_length_px: The longest.
        stick_width_px: The widest.
    """

    source: ClassVar[str] = "Singh et al., DextrAH-RGB, 2024; correlated noise after Barron and Malik, CVPR 2013"

    min_depth_m: float = 0.5
    max_depth_m: float = 1.3
    shift_sigma_px: float = 0.5
    disparity_sigma_steps: float = 1 / 6
    disparity_constant_m_px: float = 35.13
    disparity_steps_per_px: float = 8.0
    normal_sigma_m: float = 0.01
    dropout_probability: float = 0.0125 / 4
    random_probability: float = 0.0125 / 4
    stick_probability: float = 0.001 / 4
    stick_length_px: float = 18.0
    stick_width_px: float = 3.0

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """Correlated noise, independent noise, then artefacts."""
        _, height, width = depth.shape
        constant = self.disparity_constant_m_px * self.disparity_steps_per_px
        random_probability, span = max(self.random_probability, 1e-12), self.max_depth_m - self.min_depth_m
        if noise.has_kernels(depth):
            sigmas = self.shift_sigma_px, constant, self.disparity_sigma_steps, self.normal_sigma_m
            wrong_depth = self.dropout_probability, random_probability, self.min_depth_m, span
            sticks = op.stick_slots(self.stick_probability, height, width)
            numbers, size_px = noise.take(6), (self.stick_length_px, self.stick_width_px)
            return cpu_sensors.measure("dextrah", depth, numbers, *sigmas, *wrong_depth, *sticks, *size_px)
        shifted = op.sample_shifted(depth, noise, self.shift_sigma_px)
        in_disparity, in_depth = noise.normal_pair(height, width)
        seen = op.triangulate(shifted, in_disparity, constant, self.disparity_sigma_steps, 1.0)
        seen = op.choose(seen, op.MORE_THAN_0, math.inf, in_depth.mul_(self.normal_sigma_m).add_(seen))
        chance = noise.uniform(height, width)
        # One random number decides which of both happens, and how deep the wrong depth is.
        wrong = (chance - self.dropout_probability) / random_probability
        seen = op.choose(wrong, 0.0, 1.0, self.min_depth_m + span * wrong, seen)
        seen = op.choose(chance, self.dropout_probability, 1.0, seen)
        stick = op.sticks(noise, height, width, self.stick_probability, self.stick_length_px, self.stick_width_px)
        return op.choose(stick, op.MORE_THAN_0, math.inf, self.min_depth_m + span * stick, seen)


@dataclass(frozen=True, kw_only=True)
class _Unlimited(Sensor):
    """A sensor without its range, made by `Sensor.without`."""

    inner: Sensor

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """What the sensor measures before its range."""
        return self.inner.measure(depth, noise)


@dataclass(frozen=True, kw_only=True)
class Composed(Sensor):
    """One sensor after the other, made by `compose`."""

    parts: tuple[Sensor, ...] = ()

    def measure(self, depth: Tensor, noise: Noise) -> Tensor:
        """Each part sees what the one before it gave."""
        for part in self.parts:
            depth = part(depth, noise)
        return depth

    def ranged(self, near_m: float, far_m: float) -> Sensor:
        """Each part has the range."""
        parts = tuple(part.ranged(near_m, far_m) for part in self.parts)
        return replace(self, min_depth_m=near_m, max_depth_m=far_m, parts=parts)

    def _everywhere(self) -> Sensor:
        parts = tuple(part.without("range") if "range" in part.effects else part for part in self.parts)
        return replace(self, min_depth_m=0.0, max_depth_m=math.inf, parts=parts)


def compose(*sensors: Sensor) -> Composed:
    """One sensor after the other; delays add up, and the slowest decides the frame rate."""
    if not sensors:
        raise ValueError("compose needs at least one sensor")
    return Composed(
        min_depth_m=max(sensor.nearest_m for sensor in sensors),
        max_depth_m=min(sensor.max_depth_m for sensor in sensors),
        latency_s=(sum(sensor.latency_s[0] for sensor in sensors), sum(sensor.latency_s[1] for sensor in sensors)),
        delay_steps=(sum(s.delay_steps[0] for s in sensors), sum(s.delay_steps[1] for s in sensors)),
        frame_rate_hz=min(sensor.frame_rate_hz for sensor in sensors),
        parts=sensors,
    )


SENSORS: dict[str, Sensor] = {
    "ideal": Ideal(),
    "redwood": Redwood(),
    "kinect_nguyen": KinectNguyen(),
    "stereo": Stereo(),
    "stereo_ladder": Stereo(
        disparity_sigma_px=0.1,
        hole_probability=0.002,
        edge_width_px=5.0,
        edge_jump_px=3.0,
        patch_share=0.10,
        patch_size_px=30.0,
    ),
    "zedx": ZedX(),
    "realsense_parkour": RealSenseParkour(),
    "dextrah": Dextrah(),
}
"""The sensors by name, with their published parameters; "stereo_ladder" alone is fitted, to frames of a D435."""


def register_sensor(name: str, sensor: Sensor) -> None:
    """Makes a depth camera of one's own known by its name to everything that takes one.

    Raises:
        ValueError: Where there is another of this name, or it is no name.
    """
    if SENSORS.get(name, sensor) != sensor:
        raise ValueError(f"there is a sensor {name!r} already: give yours another name")
    if not name.isidentifier() or _WITHOUT in name or name == "all":
        raise ValueError(f"a sensor cannot be called {name!r}")
    SENSORS[name] = sensor


def list_sensors() -> list[str]:
    """The names of all sensors, those of installed packages among them."""
    load_plugins(PLUGINS)
    return list(SENSORS)


def make_sensor(name: str, **overrides: Any) -> Sensor:
    """A named sensor, some of its parameters set otherwise.

    Args:
        name: A key of `SENSORS`, or one with effects switched off, such as "zedx_without_latency" or
            "zedx_without_latency_without_noise" (see `Sensor.without`).
        **overrides: Parameters of its class, such as `max_depth_m=5.0`.

    Returns:
        The sensor.

    Raises:
        ValueError: The name, or the value of a parameter, makes no sense.
        TypeError: There is no such parameter.
    """
    name, *effects = name.split(_WITHOUT)
    if name not in SENSORS and name not in list_sensors():
        raise ValueError(f"unknown sensor {name!r}{_suggestion(name, list(SENSORS))}")
    sensor = SENSORS[name]
    for effect in effects:
        sensor = sensor.without(effect)
    known = [field.name for field in fields(sensor)]
    for key in overrides:
        if key not in known:
            raise TypeError(f"the sensor {name!r} has no parameter {key!r}{_suggestion(key, known)}")
    return replace(sensor, **overrides)


def taken_apart(name: str) -> dict[str, str]:
    """The names of a sensor with each of its effects switched off, by effect; none where it has one at the most."""
    effects = make_sensor(name).effects
    return {effect: f"{name}{_WITHOUT}{effect}" for effect in effects} if len(effects) > 1 else {}


def _suggestion(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(str(name).lower().replace("-", "_"), known, 1, cutoff=0.5)
    return f"{f': did you mean {close[0]!r}?' if close else ''} (there are {', '.join(known)})"
