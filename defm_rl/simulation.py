"""Depth inside observations as simulated cameras measure it, over the episodes of many environments."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from defm_rl.depth import MAX_DEPTH_M, DepthFormat, Unit, as_tensor
from defm_rl.observations import (
    Observation,
    ScaleWatch,
    Transform,
    as_given,
    depth_layouts,
    exchanged,
    leaves,
    with_leaves,
)
from defm_rl.sensors import MountingJitter, Sensor, SimulatedCamera, check_depth

LAYOUT_SEED = "layout_seed"
"""The key of infos under which environments number the episodes that begin."""


class SensorTransform(Transform):
    """What simulated cameras show takes the place of depth; shape, dtype and unit stay what they are.

    Latency and frame rate belong to each environment's episode and begin anew with it. Random numbers follow the
    episode's number, see `SimulatedCamera`.

    Args:
        space: The space of one observation, Box or Dict.
        num_envs: Number of environments.
        sensor: A sensor or its name, see `defm_rl.sensors.SENSORS`.
        depth_keys: See `depth_layouts`.
        step_s: Time between two steps; needed where the sensor has a latency or a frame rate.
        seed: Of the random numbers.
        mounting: Turns each episode's images by random angles.
        horizontal_fov_deg: Of the images; needed for the turning.
        unit: Unit of the depth: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        device: Where the sensor is simulated.

    Attributes:
        cameras: The simulated camera of each depth.

    Raises:
        ValueError: Where no depth is found, frames are stacked already, or a setting is missing.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        num_envs: int,
        sensor: str | Sensor,
        depth_keys: Sequence[str] | None = None,
        *,
        step_s: float | None = None,
        seed: int = 0,
        mounting: MountingJitter | None = None,
        horizontal_fov_deg: float | None = None,
        unit: Unit = "m",
        max_depth_m: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        self.layouts = depth_layouts(space, depth_keys)
        for key, layout in self.layouts.items():
            if layout.frames > 1:
                raise ValueError(f"{key!r} holds {layout.frames} stacked frames: simulate the sensor before stacking.")
        self.cameras = {
            key: SimulatedCamera(
                sensor,
                num_envs,
                step_s=step_s,
                # Cameras of one robot have random numbers of their own, but hang on one bracket each.
                seed=seed + index,
                mounting=mounting,
                horizontal_fov_deg=horizontal_fov_deg,
                device=device,
            )
            for index, key in enumerate(self.layouts)
        }
        self._everyone = torch.arange(num_envs)
        self._format = DepthFormat(unit, max_depth_m)
        self._watch = ScaleWatch(self.layouts, self._format)
        self._shown: dict[str, Tensor] = {}
        parts = leaves(space)
        self.space = with_leaves(space, {key: self._widened(parts[key], key) for key in self.layouts})

    def reset(
        self,
        observations: Observation,
        envs: Tensor | None = None,
        seed: int | None = None,
        numbers: Tensor | None = None,
    ) -> Observation:
        """Begins episodes in all environments, or in some, and the others show what they showed last."""
        if envs is not None and self._shown:
            return self._begin(observations, envs, numbers)
        if seed is not None:
            for index, camera in enumerate(self.cameras.values()):
                camera.restart(seed + index)
        return self._begin(observations, self._everyone, numbers)

    def step(
        self,
        observations: Observation,
        fresh: Tensor,
        ended: Tensor,
        last: Mapping[str, Tensor],
        numbers: Tensor | None = None,
    ) -> tuple[Observation, dict[str, Tensor]]:
        """Shows the observations; the cameras of episodes that begin are reset first."""
        self._reset_cameras(fresh, numbers)
        if not len(ended):
            return self._see(observations, self._everyone), {}
        # The cameras first see the ends of the old episodes, then the beginnings of the new.
        given = leaves(observations)
        at_the_end = {key: exchanged(as_tensor(given[key]), ended, depth) for key, depth in last.items()}
        self._see(with_leaves(observations, at_the_end), self._everyone)
        shown = {key: x[ended.to(x.device)] for key, x in self._shown.items()}
        return self._begin(observations, ended, numbers), shown

    def _begin(self, observations: Observation, envs: Tensor, numbers: Tensor | None) -> Observation:
        """Begins episodes; the other environments show what they showed last."""
        self._reset_cameras(envs, numbers)
        return self._see(observations, envs)

    def _reset_cameras(self, envs: Tensor, numbers: Tensor | None) -> None:
        for camera in self.cameras.values():
            camera.reset(envs, episodes=None if numbers is None else numbers[envs.to(numbers.device)])

    def _see(self, observations: Observation, envs: Tensor) -> Observation:
        """Shows a batch of observations to the cameras of some environments."""
        given = leaves(observations)
        everyone = envs is self._everyone
        shown = {key: as_tensor(given[key]) for key in self.layouts} if len(envs) else {}
        if not everyone:
            shown = {key: depth[envs.to(depth.device)] for key, depth in shown.items()}
        if shown:
            self._watch(shown)
        for key, depth in shown.items():
            camera, layout = self.cameras[key], self.layouts[key]
            metres = self._format.read(layout.images(depth), check_values=False)
            images = check_depth(metres, check_values=False).to(camera.device)
            seen = self._in_unit(camera(images, None if everyone else envs), depth)
            seen = seen.reshape(len(envs), *depth.shape[1:])
            self._shown[key] = seen if everyone else exchanged(self._shown[key], envs, seen)
        # Copies: whoever is given them may write into them.
        return with_leaves(observations, {key: as_given(x.clone(), given[key]) for key, x in self._shown.items()})

    def _in_unit(self, images: Tensor, depth: Tensor) -> Tensor:
        """Metres back to the environment's unit, dtype and device."""
        return self._format.counts(images, depth.dtype).to(depth.device)

    def _widened(self, box: spaces.Box, key: str) -> spaces.Box:
        """The space with room for holes and for noise beyond the farthest depth that the environment itself gives."""
        farthest = min(self.cameras[key].sensor.max_depth_m, MAX_DEPTH_M) / self._format.metres_per_count
        limits = np.iinfo if np.issubdtype(box.dtype, np.integer) else np.finfo
        farthest = min(farthest, float(limits(box.dtype.name).max))
        return spaces.Box(0, np.maximum(box.high, farthest).astype(box.dtype), box.shape, box.dtype.type)
