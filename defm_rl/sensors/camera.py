"""Depth cameras over time: latency, frame rate and mounting, per environment."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from defm_rl.depth import DepthFormat, DepthImages, Unit, check_sign, is_traced, looks_metric
from defm_rl.sensors import operators as op
from defm_rl.sensors.noise import Noise
from defm_rl.sensors.profiles import Sensor, make_sensor

# Random numbers that belong to an episode, not to a frame, come from seeds of their own.
_EPISODE_SEED, _MOUNTING_SEED = 0x45504953, 0x4D4F554E
_EPISODE_STRIDE = 1 << 32  # between the numbers that a camera gives an environment's episodes; no one has more of them


@dataclass(frozen=True, kw_only=True)
class MountingJitter:
    """How far a camera's pose is from where it was meant to be; uniform and independent per axis, once per episode.

    Attributes:
        position_m: Up to this along each axis; for the simulator only, since an image cannot be moved without parallax.
        angle_deg: Up to this about each axis.
    """

    position_m: float = 0.1
    angle_deg: float = 5.0

    def sample(self, seed: int, episodes: Tensor) -> tuple[Tensor, Tensor]:
        """Pose offsets for the simulator.

        Args:
            seed: Any int.
            episodes: The episodes' numbers, (B,) integers; such as `SimulatedCamera.episodes`.

        Returns:
            Positions (B, 3) in metres and angles (B, 3) in radians: along and about x (right), y (down), z (ahead).
        """
        offsets = Noise(seed ^ _MOUNTING_SEED, episodes, torch.zeros_like(episodes)).uniform(6) * 2 - 1
        return offsets[:, :3] * self.position_m, offsets[:, 3:] * math.radians(self.angle_deg)


MOUNTINGS: dict[str, MountingJitter] = {
    "navigation": MountingJitter(position_m=0.1, angle_deg=5.0),
    "grasping": MountingJitter(position_m=0.03, angle_deg=3.0),
}
"""Published ranges: leggedrobotics/sru-navigation-sim and DextrAH-RGB."""


def check_depth(
    depth: DepthImages, unit: Unit = "m", *, max_depth_m: float | None = None, check_values: bool | None = None
) -> Tensor:
    """Depth that a sensor can look at, or an error.

    NaN, infinite and negative depth become holes. What lies beyond a sensor's range is valid input: the sensor writes
    a hole.

    Args:
        depth: As `defm_rl.depth.as_depth` accepts it.
        unit: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        check_values: Whether to look at the values; by default on the CPU only.

    Returns:
        (B, H, W), float32, metres.

    Raises:
        TypeError: See `as_depth`.
        ValueError: See `as_depth`; and where nothing is nearer than 100 m: these are millimetres, or another unit.
    """
    depth_format = DepthFormat(unit, max_depth_m)
    images = depth_format.read(depth, check_values=False)
    if check_values is None:
        check_values = images.device.type == "cpu"
    if check_values and not is_traced() and not looks_metric(images):
        nearest_m = depth_format.beyond_range_m(depth)
        if nearest_m is not None:
            raise ValueError(depth_format.far_message(nearest_m))
        check_sign(images)
    return op.choose(images, op.MORE_THAN_0, math.inf, images)


def simulate(
    depth: DepthImages,
    sensor: str | Sensor,
    *,
    seed: int = 0,
    step: int = 0,
    envs: Tensor | None = None,
    unit: Unit = "m",
    max_depth_m: float | None = None,
) -> Tensor:
    """What a sensor measures of single frames, without latency and frame rate.

    Args:
        depth: As `defm_rl.depth.as_depth` accepts it: (H, W), (B, H, W), (B, 1, H, W) or (B, H, W, 1).
        sensor: A sensor or its name.
        seed: Of the random numbers.
        step: The number of the frame: another one gives other random numbers.
        envs: Which environments these are, (B,) integers; by default 0, 1, 2, ...
        unit: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole before the sensor sees it; None for no limit.

    Returns:
        (B, H, W), metres, holes 0; in the dtype of `depth` where that is floating, else float32.

    Raises:
        TypeError: See `check_depth`.
        ValueError: See `check_depth`; or the sensor's name is unknown.
    """
    images = check_depth(depth, unit, max_depth_m=max_depth_m)
    sensor = make_sensor(sensor) if isinstance(sensor, str) else sensor
    if envs is None:
        envs = torch.arange(len(images), device=images.device)
    seen = sensor(images, Noise(seed, envs, torch.full_like(envs, step)))
    return seen.to(depth.dtype) if isinstance(depth, Tensor) and depth.is_floating_point() else seen


class SimulatedCamera:
    """One depth camera in each of a number of environments, over time.

    A frame that is captured now arrives later, and stays until the next one arrives. At the beginning of an episode
    the first frame is there at once.

    Random numbers follow the seed, the episode's number and its steps, and nothing else: not which environment plays
    it, nor what was played before or is played beside it. Whoever numbers episodes, as by the seeds of their layouts,
    gets the same noise, latency and mounting for the same number. Otherwise the camera numbers them itself: no two
    episodes of any environments are then the same.

    Args:
        sensor: The sensor, or its name.
        num_envs: Number of environments.
        step_s: Time between two calls; needed where the sensor has a latency or a frame rate.
        seed: Of the random numbers.
        mounting: Turns each episode's images by random angles. Its positions are left to the simulator.
        horizontal_fov_deg: Of the images; needed for the turning.
        unit: Of the depth that comes: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel that comes is a hole; None for no limit.
        device: Where depth will be.

    Attributes:
        episodes: The numbers of the episodes under way, (num_envs,) int64.

    Raises:
        ValueError: `step_s` or `horizontal_fov_deg` is missing, or the sensor's name is unknown.
    """

    def __init__(
        self,
        sensor: str | Sensor,
        num_envs: int,
        *,
        step_s: float | None = None,
        seed: int = 0,
        mounting: MountingJitter | None = None,
        horizontal_fov_deg: float | None = None,
        unit: Unit = "m",
        max_depth_m: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.sensor = make_sensor(sensor) if isinstance(sensor, str) else sensor
        self.num_envs, self.seed, self.mounting, self.device = num_envs, seed, mounting, torch.device(device)
        timed = self.sensor.latency_s[1] > 0 or self.sensor.frame_rate_hz < math.inf
        if timed and not (step_s and step_s > 0):
            raise ValueError("this sensor has a latency or a frame rate: pass step_s, the seconds between two frames")
        if mounting is not None and horizontal_fov_deg is None:
            raise ValueError("to turn images, pass the camera's horizontal_fov_deg")
        self._format = DepthFormat(unit, max_depth_m)
        self._step_s = step_s or 1.0
        self._fov_deg = horizontal_fov_deg
        # A frame is at its oldest just before the next one arrives.
        oldest_s = self.sensor.latency_s[1] + (1 / self.sensor.frame_rate_hz if timed else 0.0)
        self._slots = math.ceil(oldest_s / self._step_s) + self.sensor.delay_steps[1] + 2 if timed else 1
        if not timed and self.sensor.delay_steps[1]:
            self._slots = self.sensor.delay_steps[1] + 1
        self._history: Tensor | None = None
        self.restart()

    @torch.inference_mode(False)  # what a trainer begins in inference mode may be gone on with outside
    def restart(self, seed: int | None = None) -> None:
        """Begins anew in all environments, with the same random numbers or those of another seed."""
        self.seed = self.seed if seed is None else seed
        self._history = None
        self._everyone = torch.arange(self.num_envs, device=self.device)
        self._steps = torch.zeros_like(self._everyone)
        # The camera's own numbers: the environment's, and above it the count of its episodes.
        self.episodes, self._own = self._everyone.clone(), self._everyone.clone()

    def reset(self, envs: Tensor | None = None, *, episodes: Tensor | None = None) -> None:
        """Begins episodes.

        Args:
            envs: In the environments with these numbers, (N,) integers; by default in all.
            episodes: The numbers that their random numbers follow, (N,) integers, such as the seeds of their layouts;
                by default, and where they are negative, numbers that no episode of this camera had before.
        """
        envs = self._everyone if envs is None else envs.to(self.device)
        begun = self._steps[envs] > 0
        self._own[envs] += begun * _EPISODE_STRIDE
        own = self._own[envs]
        if episodes is not None:
            given = episodes.to(own)
            own = torch.where(given < 0, own, given)
        self.episodes[envs] = own
        self._steps[envs] = 0

    def __call__(self, depth: Tensor, envs: Tensor | None = None) -> Tensor:
        """Captures one frame in each environment, and gives the latest that has arrived.

        Args:
            depth: (N, H, W), planar depth without NaN and negative values, as `check_depth` gives it.
            envs: Whose frames these are, (N,) integers, each once; by default everyone's.

        Returns:
            (N, H, W), metres, of the dtype of `depth`; float32 with another unit or a limit.
        """
        if self._format != DepthFormat():
            depth = self._format.metres(depth)
        envs = self._everyone if envs is None else envs.to(self.device)
        if depth.ndim != 3 or len(depth) != len(envs):
            raise ValueError(f"expected ({len(envs)}, H, W) depth, got {tuple(depth.shape)}")
        if self.mounting is not None and self._fov_deg is not None:
            _, angles_rad = self.mounting.sample(self.seed, self.episodes[envs])
            focal_px = op.focal_length_px(depth.shape[2], self._fov_deg)
            depth = op.rotate(depth.float(), angles_rad, focal_px).to(depth.dtype)
        steps = self._steps[envs]
        seen = self.sensor(depth, Noise(self.seed, self.episodes[envs], steps))
        self._steps[envs] += 1
        if self._slots == 1:
            return seen
        if self._history is None or self._history.shape[1:] != seen.shape[1:]:
            with torch.inference_mode(False):
                self._history = seen.new_zeros(self.num_envs * self._slots, *seen.shape[1:])
        # Whole rows are copied several times as fast as what two indices find.
        rows = envs * self._slots
        self._history.index_copy_(0, rows + steps % self._slots, seen.to(self._history.dtype))
        captured = steps - self.age_steps(envs, steps)
        return self._history.index_select(0, rows + captured % self._slots).to(seen.dtype)

    def age_steps(self, envs: Tensor, steps: Tensor) -> Tensor:
        """How many steps old the frame is that environments see at a step of their episode; (N,) integers."""
        draws = Noise(self.seed ^ _EPISODE_SEED, self.episodes[envs], torch.zeros_like(steps)).uniform(3).double()
        low, high = self.sensor.delay_steps
        delay = low + (draws[:, 0] * (high - low + 1)).long()
        low_s, high_s = self.sensor.latency_s
        latency = (low_s + (high_s - low_s) * draws[:, 1]) / self._step_s  # in steps
        # Frames are captured at k periods after a random phase; k is the last one that has arrived by now.
        arrived = steps - delay - latency
        if self.sensor.frame_rate_hz < math.inf:
            period = 1 / (self.sensor.frame_rate_hz * self._step_s)
            phase = (draws[:, 2] * period).floor()  # there are images at whole steps only
            arrived = ((arrived - phase) / period + 1e-9).floor() * period + phase
        captured = (arrived + 1e-9).floor().long().clamp(min=0)
        return steps - captured
