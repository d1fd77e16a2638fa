"""Vector wrappers for gymnasium: depth as simulated cameras measure it, encoder features, or input channels."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from torch import Tensor

from defm_rl.depth import Unit, as_tensor
from defm_rl.encoders import DepthEncoder
from defm_rl.interfaces import check_vector_env
from defm_rl.observations import (
    EncodingTransform,
    NormalizingTransform,
    Observation,
    Transform,
    as_given,
    exchanged,
    leaves,
    rows_of,
    with_leaves,
    with_row,
)
from defm_rl.sensors import MountingJitter, Sensor
from defm_rl.simulation import LAYOUT_SEED, SensorTransform

__all__ = ["EncodeDepth", "NormalizeDepth", "SimulateSensor"]


_NONE = torch.zeros(0, dtype=torch.int64)


class _TransformDepth(VectorWrapper):
    """Transforms observations, and in `infos` the last ones of episodes; works with every autoreset mode.

    Observations are arrays or tensors, which stay tensors on their device; spaces are gymnasium's in both cases. The
    last observations stand in `infos` under `final_obs` or `final_observation`: one for each episode that has ended, or
    a batch for all environments.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], transform: Transform) -> None:
        super().__init__(env)
        self.single_observation_space = transform.space
        self.observation_space = batch_space(transform.space, env.num_envs)
        self._transform = transform
        self._ended = torch.zeros(env.num_envs, dtype=torch.bool)

    @property
    def transform(self) -> Transform:
        """What becomes of the observations."""
        return self._transform

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Resets and transforms; options may name the environments (`reset_mask`, or `env_idx` as in ManiSkill)."""
        envs = _chosen(options or {})  # before the environment, which takes them out of the options
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._ended = self._ended.clone()  # steps in inference mode leave a tensor that only that mode may write to
        self._ended[slice(None) if envs is None else envs.to(self._ended.device)] = False
        number = int(seed) if isinstance(seed, int | np.integer) else None
        return self._transform.reset(observations, envs, number, _episode_numbers(infos, self.num_envs)), infos

    def step(self, actions: Any) -> tuple[Observation, Any, Any, Any, dict[str, Any]]:
        """Steps and transforms, the last observations of episodes too."""
        observations, rewards, terminations, truncations, infos = self.env.step(actions)
        before, self._ended = self._ended, as_tensor(terminations).bool() | as_tensor(truncations).bool()
        last = _LastObservations(infos, self._ended, self._transform.layouts)
        mode = self.metadata.get("autoreset_mode")
        fresh = before if mode == AutoresetMode.NEXT_STEP else self._ended
        fresh = _indices(fresh) if mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP) else _NONE
        if len(last.envs):
            fresh = fresh[~torch.isin(fresh, last.envs.to(fresh.device))]
        transformed, rows = self._transform.step(
            observations, fresh, last.envs, last.depth, _episode_numbers(infos, self.num_envs)
        )
        return transformed, rewards, terminations, truncations, last.replaced(rows, transformed)


class _LastObservations:
    """The last observations of episodes in the infos of a vector environment.

    Args:
        infos: Of a step.
        ended: The environments in which an episode has ended, (num_envs,) bool.
        paths: Of the depth.

    Attributes:
        envs: The environments whose last observations are known, (E,).
        depth: Their depth, (E, ...) by path.
    """

    def __init__(self, infos: dict[str, Any], ended: Tensor, paths: Mapping[str, Any]) -> None:
        self._infos = infos
        self._key = next((key for key in ("final_obs", "final_observation") if key in infos), None)
        self._last = None if self._key is None else infos[self._key]
        self.envs = _NONE
        self.depth: dict[str, Tensor] = {}
        if self._last is None:
            return
        if self._is_batch:
            self.envs = _indices(as_tensor(infos.get(f"_{self._key}", ended)).bool())
            parts = leaves(self._last)
            self.depth = {path: as_tensor(parts[path])[self.envs.to(parts[path].device)] for path in paths}
        else:
            self.envs = torch.tensor([i for i, last in enumerate(self._last) if last is not None], dtype=torch.int64)
            self.depth = rows_of([self._last[i] for i in self.envs.tolist()], paths)

    def replaced(self, rows: Mapping[str, Tensor], observations: Observation) -> dict[str, Any]:
        """The infos with other rows in the place of `depth`; where no episode has ended, a batch has `observations`."""
        if self._last is None:
            return self._infos
        if self._is_batch:
            given = leaves(observations)
            batches = {path: as_tensor(given[path]) for path in self.depth}
            if len(self.envs):
                batches = {path: exchanged(batch, self.envs, rows[path]) for path, batch in batches.items()}
            last = with_leaves(self._last, {path: as_given(batch, given[path]) for path, batch in batches.items()})
        else:
            last = self._last.copy()
            for row, env in enumerate(self.envs.tolist()):
                last[env] = with_row(last[env], rows, row)
        return {**self._infos, str(self._key): last}

    @property
    def _is_batch(self) -> bool:
        many = isinstance(self._last, np.ndarray) and not self._last.dtype.hasobject
        return many or isinstance(self._last, Mapping | Tensor)


class EncodeDepth(_TransformDepth):
    """Encodes each depth frame once: features in float16 take the place of depth.

    A Box observation becomes a Box of features; a Dict keeps its other keys. Stacked frames are encoded one by one and
    their features concatenated. Features beyond float16's range (±65504) are clipped.

    Args:
        env: The vector environment; its depth is in metres, unless `unit` says otherwise.
        encoder: A published model's name, or a frozen `DepthEncoder`.
        depth_keys: The keys of a Dict that are depth, in nested ones paths such as "sensor_data/base_camera/depth".
            Default: those that look like single depth frames.
        device: Where the encoder runs. Default: CUDA if there is any, else the CPU.
        **encoder_kwargs: Settings of the `DepthEncoder`, such as weights, features, pool, unit, max_depth_m.

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
        check_vector_env(env, "EncodeDepth", instead="For Stable-Baselines3 there is defm_rl.sb3.VecEncodeDepth.")
        transform = EncodingTransform(env.single_observation_space, depth_keys, encoder, device, **encoder_kwargs)
        super().__init__(env, transform)
        self.encoder = transform.encoder


class NormalizeDepth(_TransformDepth):
    """Turns depth into the three standardised channels that DeFM's networks take, for a network of one's own.

    Args:
        env: The vector environment.
        depth_keys: The keys of a Dict that are depth, in nested ones paths such as "sensor_data/base_camera/depth".
            Default: those that look like single depth frames.
        size: Height and width (or square side) to resize to.
        unit: Unit of the depth: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
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
        unit: Unit = "m",
        max_depth_m: float | None = None,
        dtype: type[np.float16] | type[np.float32] = np.float16,
    ) -> None:
        check_vector_env(env, "NormalizeDepth", instead="For Stable-Baselines3 there is defm_rl.sb3.VecNormalizeDepth.")
        space = env.single_observation_space
        super().__init__(env, NormalizingTransform(space, depth_keys, size, unit, max_depth_m, dtype))


class SimulateSensor(_TransformDepth):
    """Depth as a simulated camera measures it; shape, dtype and unit of the observations stay what they are.

    Latency and frame rate belong to each environment's episode: they begin anew with it, in every autoreset mode, and
    the last observation of an episode is what the camera showed at its end. Put it around the environment itself, and
    anything that stacks frames, encodes or normalizes around this.

    Where the environment numbers its episodes by an integer `layout_seed` in the infos of their beginning, noise,
    latency and mounting follow that number: whoever plays a layout again, in any environment and any order, looks
    through the same camera. Otherwise they follow the environment's index and the count of its episodes.

    Args:
        env: The vector environment; its depth is planar metres, unless `unit` says otherwise.
        sensor: A sensor or its name, see `defm_rl.sensors.SENSORS`.
        depth_keys: The keys of a Dict that are depth, in nested ones paths such as "sensor_data/base_camera/depth".
            Default: those that look like single depth frames.
        step_s: Time between two steps; needed where the sensor has a latency or a frame rate.
        seed: Of the random numbers. `reset(seed=...)` replaces it where it is one int.
        mounting: Turns each episode's images by random angles (its positions are left to the simulator).
        horizontal_fov_deg: Of the images; needed for the turning.
        unit: Unit of the depth: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
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
        unit: Unit = "m",
        max_depth_m: float | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        check_vector_env(env, "SimulateSensor", instead="For Stable-Baselines3 there is defm_rl.sb3.VecSimulateSensor.")
        transform = SensorTransform(
            env.single_observation_space,
            env.num_envs,
            sensor,
            depth_keys,
            step_s=step_s,
            seed=seed,
            mounting=mounting,
            horizontal_fov_deg=horizontal_fov_deg,
            unit=unit,
            max_depth_m=max_depth_m,
            device=device,
        )
        super().__init__(env, transform)
        self.cameras = transform.cameras


def _chosen(options: Mapping[str, Any]) -> Tensor | None:
    """The environments that the options of a reset name; None for all."""
    mask, envs = options.get("reset_mask"), options.get("env_idx")
    if mask is not None:
        return _indices(torch.as_tensor(mask))
    return None if envs is None else torch.as_tensor(envs).reshape(-1)


def _episode_numbers(infos: Mapping[str, Any], num_envs: int) -> Tensor | None:
    """The numbers of the episodes that begin, (num_envs,) int64, negative where there is none; None for none at all.

    Infos may hold anything: what is no integer for each environment numbers no episodes.
    """
    numbers, known = (_for_each(infos.get(key), num_envs) for key in (LAYOUT_SEED, f"_{LAYOUT_SEED}"))
    if numbers is None or numbers.is_floating_point() or numbers.dtype == torch.bool:
        return None
    return numbers.long() if known is None else torch.where(known.bool().to(numbers.device), numbers.long(), -1)


def _for_each(values: Any, num_envs: int) -> Tensor | None:
    """One number for each environment, (num_envs,); None for anything else."""
    numeric = isinstance(values, Tensor) or (isinstance(values, np.ndarray) and values.dtype.kind in "biuf")
    return as_tensor(values) if numeric and tuple(values.shape) == (num_envs,) else None


def _indices(mask: Tensor) -> Tensor:
    return mask.nonzero().squeeze(1)
