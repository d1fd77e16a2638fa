"""Vector wrappers for gymnasium: depth as simulated cameras measure it, encoder features, or input channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.depth import MAX_DEPTH_M, DepthScaleMonitor, as_depth
from defm_rl.encoders import DepthEncoder
from defm_rl.observations import (
    DepthTransform,
    EncodingTransform,
    NormalizingTransform,
    Observation,
    as_dict,
    depth_layouts,
)
from defm_rl.sensors import MountingJitter, Sensor, SimulatedCamera, check_depth

__all__ = ["EncodeDepth", "NormalizeDepth", "SimulateSensor"]


class _TransformDepth(VectorWrapper):
    """Transforms observations, and in `infos` the last ones of episodes; works with every autoreset mode."""

    def __init__(self, env: VectorEnv[Any, Any, Any], transform: DepthTransform) -> None:
        super().__init__(env)
        self.single_observation_space = transform.space
        self.observation_space = batch_space(transform.space, env.num_envs)
        self._transform = transform

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Resets and transforms."""
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        return self._transform(observations)[0], infos

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Steps and transforms; with same-step autoreset the last observations join the batch."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        if "final_obs" not in infos:
            return self._transform(observations)[0], rewards, terminations, truncations, infos
        final_obs = infos["final_obs"].copy()
        ended = [index for index, last in enumerate(final_obs) if last is not None]
        observations, transformed = self._transform(observations, [final_obs[index] for index in ended])
        for index, last in zip(ended, transformed, strict=True):
            final_obs[index] = last
        return observations, rewards, terminations, truncations, {**infos, "final_obs": final_obs}


class EncodeDepth(_TransformDepth):
    """Encodes each depth frame once: features in float16 take the place of depth.

    A Box observation becomes a Box of features; a Dict keeps its other keys. Stacked frames are encoded one by one and
    their features concatenated. Features beyond float16's range (±65504) are clipped.

    Args:
        env: The vector environment; its depth is in metres, unless `unit="mm"`.
        encoder: A published model's name, or a frozen `DepthEncoder`.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        device: Where the encoder runs. Default: CUDA if there is any, else the CPU.
        **encoder_kwargs: Settings of the `DepthEncoder`, such as weights, features, pool, unit.

    Raises:
        ValueError: Where the encoder is not frozen, or no depth is found.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        encoder: str | DepthEncoder = "defm_resnet18",
        *,
        depth_keys: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        **encoder_kwargs: Any,
    ) -> None:
        transform = EncodingTransform(env.single_observation_space, depth_keys, encoder, device, **encoder_kwargs)
        super().__init__(env, transform)
        self.encoder = transform.encoder


class NormalizeDepth(_TransformDepth):
    """Turns depth into the three standardised channels that DeFM's networks take, for a network of one's own.

    Args:
        env: The vector environment.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        size: Height and width (or square side) to resize to.
        unit: Unit of the depth, "m" or "mm".
        dtype: float16 or float32.

    Raises:
        ValueError: Where no depth is found, or for another dtype.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        depth_keys: Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        unit: str = "m",
        dtype: type[np.float16] | type[np.float32] = np.float16,
    ) -> None:
        super().__init__(env, NormalizingTransform(env.single_observation_space, depth_keys, size, unit, dtype))


class SimulateSensor(VectorWrapper):
    """Depth as a simulated camera measures it; shape, dtype and unit of the observations stay what they are.

    Latency and frame rate belong to each environment's episode: they begin anew with it, in every autoreset mode, and
    the last observation of an episode is what the camera showed at its end. Put it around the environment itself, and
    anything that stacks frames, encodes or normalizes around this.

    Args:
        env: The vector environment; its depth is planar metres, unless `unit="mm"`.
        sensor: A sensor or its name, see `defm_rl.sensors.SENSORS`.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        step_s: Time between two steps; needed where the sensor has a latency or a frame rate.
        seed: Of the random numbers. `reset(seed=...)` replaces it where it is one int.
        mounting: Turns each episode's images by random angles (its positions are left to the simulator).
        horizontal_fov_deg: Of the images; needed for the turning.
        unit: Unit of the depth, "m" or "mm".
        device: Where the sensor is simulated.

    Attributes:
        cameras: The simulated camera of each depth key.

    Raises:
        ValueError: Where no depth is found, frames are stacked already, or a setting is missing.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        sensor: str | Sensor = "stereo",
        *,
        depth_keys: Sequence[str] | None = None,
        step_s: float | None = None,
        seed: int = 0,
        mounting: MountingJitter | None = None,
        horizontal_fov_deg: float | None = None,
        unit: str = "m",
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__(env)
        self._layouts = depth_layouts(env.single_observation_space, depth_keys)
        for key, layout in self._layouts.items():
            if layout.frames > 1:
                raise ValueError(f"{key!r} holds {layout.frames} stacked frames: simulate the sensor before stacking.")
        self.cameras = {
            key: SimulatedCamera(
                sensor,
                env.num_envs,
                step_s=step_s,
                # Cameras of one robot have random numbers of their own, but hang on one bracket each.
                seed=seed + index,
                mounting=mounting,
                horizontal_fov_deg=horizontal_fov_deg,
                device=device,
            )
            for index, key in enumerate(self._layouts)
        }
        self._unit = unit
        self._monitor = DepthScaleMonitor()
        self._ended = np.zeros(env.num_envs, dtype=bool)
        self._shown: dict[str, NDArray[Any]] = {}
        self.single_observation_space = self._widened(env.single_observation_space)
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Resets; with `options={"reset_mask": mask}` the episodes of the others go on."""
        mask = (options or {}).get("reset_mask")  # before the environment, which takes it out of the options
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        if mask is None or not self._shown:
            for index, camera in enumerate(self.cameras.values()):
                if isinstance(seed, int | np.integer):
                    camera.restart(int(seed) + index)
                else:
                    camera.reset()
            self._ended[:] = False
            return self._see(observations, np.arange(self.num_envs)), infos
        self._ended &= ~mask
        return self._begin(observations, np.flatnonzero(mask)), infos

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Steps; the cameras of episodes that begin are reset first."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        mode = self.metadata.get("autoreset_mode")
        if mode == AutoresetMode.NEXT_STEP and self._ended.any():
            self._reset_cameras(np.flatnonzero(self._ended))
        self._ended = np.logical_or(terminations, truncations)
        if "final_obs" not in infos:
            return self._see(observations, np.arange(self.num_envs)), rewards, terminations, truncations, infos
        # With same-step autoreset the cameras first see the ends of the old episodes, then the beginnings of the new.
        final_obs = infos["final_obs"].copy()
        ended = np.array([index for index, last in enumerate(final_obs) if last is not None], dtype=np.int64)
        last_of_all = {key: array.copy() for key, array in as_dict(observations).items() if key in self._layouts}
        for index in ended:
            for key, array in last_of_all.items():
                array[index] = as_dict(final_obs[index])[key]
        seen = as_dict(self._see(last_of_all, np.arange(self.num_envs)))
        for index in ended:
            last = {**as_dict(final_obs[index]), **{key: seen[key][index].copy() for key in self._layouts}}
            final_obs[index] = last if isinstance(observations, dict) else last["depth"]
        observations = self._begin(observations, ended)
        return observations, rewards, terminations, truncations, {**infos, "final_obs": final_obs}

    def _begin(self, observations: Observation, envs: NDArray[np.int64]) -> Observation:
        """Begins episodes; the other environments show what they showed last."""
        self._reset_cameras(envs)
        return self._see(observations, envs)

    def _reset_cameras(self, envs: NDArray[np.int64]) -> None:
        for camera in self.cameras.values():
            camera.reset(torch.from_numpy(envs))

    def _see(self, observations: Observation, envs: NDArray[np.int64]) -> Observation:
        """Shows a batch of observations to the cameras of some environments."""
        by_key = as_dict(observations)
        for key, layout in self._layouts.items():
            camera, arrays = self.cameras[key], by_key[key]
            if len(envs):
                depth = torch.from_numpy(np.require(arrays[envs], requirements=["C", "W"]))
                images = as_depth(layout.images(depth), self._unit, check_values=False)
                self._monitor.update(images)
                images = check_depth(images.clamp(min=0.0)).to(camera.device)
                everyone = len(envs) == self.num_envs
                seen = self._as_given(camera(images, None if everyone else torch.from_numpy(envs)), arrays)
                shown = np.empty_like(arrays) if everyone else self._shown[key].copy()
                shown[envs] = seen.reshape(len(envs), *arrays.shape[1:])
                self._shown[key] = shown
        by_key = {**by_key, **{key: self._shown[key].copy() for key in self._layouts}}
        return by_key if isinstance(observations, dict) else by_key["depth"]

    def _as_given(self, images: Tensor, arrays: NDArray[Any]) -> NDArray[Any]:
        """Metres back to the environment's unit and dtype."""
        if self._unit == "mm":
            images = images * 1000
        if not np.issubdtype(arrays.dtype, np.floating):
            images = images.round().clamp(0, np.iinfo(arrays.dtype).max)
        return images.cpu().numpy().astype(arrays.dtype)

    def _widened(self, space: spaces.Space[Any]) -> spaces.Space[Any]:
        """The space with room for holes and for noise beyond the farthest depth that the environment itself gives."""
        boxes: dict[str, spaces.Space[Any]] = dict(space.spaces) if isinstance(space, spaces.Dict) else {"depth": space}
        for key, camera in self.cameras.items():
            box = boxes[key]
            assert isinstance(box, spaces.Box)
            farthest = min(camera.sensor.max_depth_m, MAX_DEPTH_M) * (1000 if self._unit == "mm" else 1)
            if np.issubdtype(box.dtype, np.integer):
                farthest = min(farthest, np.iinfo(box.dtype).max)
            boxes[key] = spaces.Box(0, np.maximum(box.high, farthest).astype(box.dtype), box.shape, box.dtype.type)
        return spaces.Dict(boxes) if isinstance(space, spaces.Dict) else boxes["depth"]
