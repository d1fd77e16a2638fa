"""A scene's camera as metric depth, and as a simulated sensor measures it."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from defm_rl.depth import DepthFormat, DepthScaleMonitor, Unit
from defm_rl.names import hint
from defm_rl.sensors import Ideal, SimulatedCamera
from defm_rl.sensors.operators import above, choose

Ids = Sequence[int] | Tensor | slice | None
"""Which environments: their numbers, or (num_envs,) bool; None for all."""

_FLOAT32 = torch.finfo(torch.float32)


class SceneCamera(ABC):
    """A camera of a scene as metric depth, in which whatever is not a measurement is 0.

    The sensor's own buffers are never written to. A simulator's camera says which image is depth, and how it is read.

    Args:
        sensors: The scene's sensors by name, `env.scene.sensors`.
        name: Which of them.
        data_type: Which of its images; "auto" for the best one that it gives.
        min_depth_m: What is nearer counts as not measured.
        max_depth_m: What is farther counts as not measured.
        unit: "m", "mm", or the metres of one count, for a sensor of one's own that gives something else.
        where: The configuration key that errors name, such as "observations.policy.depth.params".

    Attributes:
        data_type: The data type that is read.

    Raises:
        ValueError: Where there is no such sensor, it gives no depth, or the unit is none.
    """

    def __init__(
        self,
        sensors: Mapping[str, Any],
        name: str,
        *,
        data_type: str = "auto",
        min_depth_m: float = 0.0,
        max_depth_m: float = math.inf,
        unit: Unit = "m",
        where: str = "params",
    ) -> None:
        if name not in sensors:
            raise ValueError(f"{where}.sensor: the scene has no sensor {name!r}{hint(name, sensors)}.")
        self._sensor = sensors[name]
        self.data_type = self._choose_data_type(name, data_type, where)
        if not 0 <= min_depth_m < max_depth_m:
            raise ValueError(
                f"{where}: min_depth_m and max_depth_m must be 0 <= min < max, got {min_depth_m} and {max_depth_m}."
            )
        self._near_m, self._far_m = max(min_depth_m, _FLOAT32.tiny), min(max_depth_m, _FLOAT32.max)
        try:
            self._format = DepthFormat(unit)
            limited = DepthFormat(unit, max_depth_m if max_depth_m < math.inf else None)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}.unit: {error}.") from error
        self._monitor = DepthScaleMonitor(depth_format=limited, camera=name)

    @property
    @abstractmethod
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""

    def read(self) -> Tensor:
        """The images of all environments: (N, H, W) float32, metres along the optical axis, a tensor of its own.

        Warns:
            ScaleWarning: They do not look like metres, see `DepthScaleMonitor`.
        """
        metres = self._format.metres(self._image())
        self._monitor.update(metres)
        depth = self._along_axis(metres)
        return choose(depth, self._near_m, above(self._far_m), depth)  # 0 for NaN

    @abstractmethod
    def _choose_data_type(self, name: str, asked: str, where: str) -> str:
        """Which of the sensor's images is read, or a ValueError."""

    @abstractmethod
    def _image(self) -> Tensor:
        """What the sensor gives, (N, H, W), in its own unit."""

    def _along_axis(self, metres: Tensor) -> Tensor:
        """Metres along the optical axis, of the sensor's metres."""
        return metres


class SensedCamera:
    """A camera's depth as a simulated sensor measures it, once per step and environment.

    Whoever asks within one step is given the same images. Latency and frame rate belong to each environment's episode
    and begin anew with it; random numbers follow the episode, see `SimulatedCamera`.

    Args:
        camera: The camera.
        sensor: The sensor's name, see `defm_rl.sensors.SENSORS`; "ideal" for the depth itself.
        num_envs: Number of environments.
        step_s: Time between two steps of the policy, in seconds.
        seed: Of the random numbers.
        device: Where the images are.
        episodes: Gives the numbers of the episodes under way, (N,) integers, for the random numbers to follow; where it
            gives None, and where they are negative, no two episodes have the same.

    Attributes:
        camera: The camera.
        step: The step of the last reading; None before the first.
        depth: The depth that was measured in it, without the sensor.

    Raises:
        ValueError: For an unknown sensor, with the right one.
    """

    def __init__(
        self,
        camera: SceneCamera,
        sensor: str,
        num_envs: int,
        *,
        step_s: float,
        seed: int = 0,
        device: str | torch.device = "cpu",
        episodes: Callable[[], Tensor | None] = lambda: None,
    ) -> None:
        self.camera = camera
        self.step: int | None = None
        self.depth = self._shown = torch.empty(0)
        self._episodes = episodes
        self._begins = torch.ones(num_envs, dtype=torch.bool, device=device)
        simulated = SimulatedCamera(sensor, num_envs, step_s=step_s, seed=seed, device=device)
        self._simulated = None if simulated.sensor == Ideal() else simulated

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.camera.image_size

    def reset(self, env_ids: Ids = None) -> None:
        """Begins episodes; None for all environments."""
        self._begins = marked(self._begins, env_ids)

    def read(self, step: int) -> Tensor:
        """What is seen in a step: (N, H, W) float32, metres, 0 where nothing was measured, a tensor of its own."""
        if self._simulated is None:
            return self.camera.read()
        with torch.inference_mode():
            begun = self._begins.nonzero()[:, 0]
            if step != self.step or len(begun):
                self._measure(self._simulated, step, begun)
        return self._shown.clone()  # outside inference mode an ordinary tensor

    def _measure(self, simulated: SimulatedCamera, step: int, begun: Tensor) -> None:
        self.depth = self.camera.read()
        if len(begun):
            numbers = self._episodes()
            simulated.reset(begun, episodes=None if numbers is None else numbers[begun])
            self._begins = torch.zeros_like(self._begins)
        if step != self.step:
            self._shown = simulated(self.depth)
        else:  # the others have been measured in this step already
            self._shown = self._shown.index_copy(0, begun, simulated(self.depth[begun], begun))
        self.step = step


def marked(flags: Tensor, env_ids: Ids) -> Tensor:
    """Flags (N,) with those of some environments set; a tensor of its own, in or outside inference mode."""
    flags = flags.clone()
    flags[slice(None) if env_ids is None else env_ids] = True
    return flags
