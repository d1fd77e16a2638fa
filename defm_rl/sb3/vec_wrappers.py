"""Wrappers of vectorized environments: simulated cameras, depth encoded once or normalized for one's own network."""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecExtractDictObs, VecFrameStack, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn
from torch import Tensor

from defm_rl.depth import Unit
from defm_rl.encoders import DepthEncoder
from defm_rl.interfaces import check_vec_env
from defm_rl.observations import (
    ONLY_KEY,
    DepthLayout,
    EncodingTransform,
    NormalizingTransform,
    Transform,
    leaves,
    rows_of,
    standardized_space,
    with_leaves,
    with_row,
)
from defm_rl.sensors import MountingJitter, Sensor
from defm_rl.simulation import LAYOUT_SEED, SensorTransform

logger = logging.getLogger(__name__)


class _VecTransformDepth(VecEnvWrapper):
    """Transforms observations, and in the infos the last ones of episodes, which SB3 bootstraps from on time-outs."""

    def __init__(self, venv: VecEnv, transform: Transform) -> None:
        super().__init__(venv, observation_space=transform.space)
        self._transform = transform
        self._seed: int | None = None
        _check_chain(venv, transform)

    @property
    def transform(self) -> Transform:
        """What becomes of the observations."""
        return self._transform

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds the next reset, of what is random in the wrapper too."""
        self._seed = seed
        return self.venv.seed(seed)

    def reset(self) -> VecEnvObs:
        """Resets and transforms."""
        seed, self._seed = self._seed, None
        observations = self.venv.reset()
        return self._transform.reset(observations, None, seed, self._numbers())  # type: ignore[arg-type, return-value]

    def step_wait(self) -> VecEnvStepReturn:
        """Waits for the step and transforms; the last observations of episodes join the batch."""
        observations, rewards, dones, infos = self.venv.step_wait()
        known = [index for index in np.flatnonzero(dones) if "terminal_observation" in infos[index]]
        last = [infos[index]["terminal_observation"] for index in known]
        ended = torch.tensor(known, dtype=torch.int64)
        fresh = torch.tensor(np.setdiff1d(np.flatnonzero(dones), known), dtype=torch.int64)
        observations, rows = self._transform.step(  # type: ignore[assignment]
            observations,  # type: ignore[arg-type]
            fresh,
            ended,
            rows_of(last, self._transform.layouts),
            self._numbers(),
        )
        for row, index in enumerate(known):
            infos[index] = {**infos[index], "terminal_observation": with_row(last[row], rows, row)}
        return observations, rewards, dones, infos

    def _numbers(self) -> Tensor:
        """The numbers of the episodes that began last, (num_envs,) int64, negative where there is none."""
        numbers = [info.get(LAYOUT_SEED) for info in self.venv.unwrapped.reset_infos]
        return torch.tensor([int(x) if isinstance(x, int | np.integer) else -1 for x in numbers], dtype=torch.int64)


class VecEncodeDepth(_VecTransformDepth):
    """Encodes each depth frame once: features in float16 take the place of depth.

    A Box observation becomes a Box of features; a Dict keeps its other keys. The rollout or replay buffer then holds a
    few hundred numbers a frame, and no epoch, critic or target network encodes again. Frames may be stacked before this
    wrapper (each is encoded, features are concatenated) or after it, which is cheaper. To standardise the features,
    wrap this in `VecNormalizeFeatures`. Features beyond float16's range (±65504) are clipped.

    A policy that is loaded with another encoder or other weights than it was trained with is refused by SB3, because
    the spaces differ: see `defm_rl.observations.FeatureBox`.

    Args:
        venv: The vectorized environment; its depth is in metres, unless `unit` says otherwise.
        encoder: A published model's name, or a frozen `DepthEncoder`.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        device: Where the encoder runs. Default: CUDA if there is any, else the CPU.
        **encoder_kwargs: Settings of the `DepthEncoder`, such as weights, features, pool, unit, max_depth_m.

    Attributes:
        encoder: The `DepthEncoder`.

    Raises:
        ValueError: Where the encoder is not frozen, no depth is found, `VecNormalize` standardises it before, or
            `VecFrameStack` has joined images at their edges, as its default does with depth of shape (1, H, W).
    """

    def __init__(
        self,
        venv: VecEnv,
        encoder: str | DepthEncoder = "defm_resnet18",
        *,
        depth_keys: Sequence[str] | None = None,
        device: str | torch.device | None = None,
        **encoder_kwargs: Any,
    ) -> None:
        check_vec_env(
            venv, "VecEncodeDepth", instead="Without Stable-Baselines3 there is defm_rl.gymnasium.EncodeDepth."
        )
        transform = EncodingTransform(venv.observation_space, depth_keys, encoder, device, **encoder_kwargs)
        super().__init__(venv, transform)
        self.encoder = transform.encoder


class VecNormalizeDepth(_VecTransformDepth):
    """Turns depth into the three standardised channels that DeFM's networks take, for a network of one's own.

    SB3 takes images for uint8. For its own CNN (`CnnPolicy`, or the image keys of `MultiInputPolicy`) pass
    `policy_kwargs=dict(normalize_images=False)`: without it they are flattened into an MLP, or refused.

    Args:
        venv: The vectorized environment.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        size: Height and width (or square side) to resize to.
        unit: Unit of the depth: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        dtype: float16, which halves the buffer, or float32.

    Raises:
        ValueError: Where no depth is found, `VecNormalize` standardises it before or `VecFrameStack` has joined images
            at their edges, or for another dtype.
    """

    def __init__(
        self,
        venv: VecEnv,
        *,
        depth_keys: Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        unit: Unit = "m",
        max_depth_m: float | None = None,
        dtype: type[np.float16] | type[np.float32] = np.float16,
    ) -> None:
        check_vec_env(
            venv, "VecNormalizeDepth", instead="Without Stable-Baselines3 there is defm_rl.gymnasium.NormalizeDepth."
        )
        space = venv.observation_space
        super().__init__(venv, NormalizingTransform(space, depth_keys, size, unit, max_depth_m, dtype))


class VecSimulateSensor(_VecTransformDepth):
    """Depth as a simulated camera measures it; shape, dtype and unit of the observations stay what they are.

    Latency and frame rate belong to each environment's episode and begin anew with it; `terminal_observation` is what
    the camera showed at the end. Noise, latency and mounting follow the `layout_seed` in the infos of `reset` where
    there is one, see `defm_rl.gymnasium.SimulateSensor`. Put it around the environment itself, and anything that stacks
    frames, encodes or normalizes around this.

    Args:
        venv: The vectorized environment; its depth is planar metres, unless `unit` says otherwise.
        sensor: A sensor or its name, see `defm_rl.sensors.SENSORS`.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        step_s: Time between two steps; needed where the sensor has a latency or a frame rate.
        seed: Of the random numbers. `seed(...)`, which SB3's algorithms call, replaces it with the next reset.
        mounting: Turns each episode's images by random angles (its positions are left to the simulator).
        horizontal_fov_deg: Of the images; needed for the turning.
        unit: Unit of the depth: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        device: Where the sensor is simulated.

    Attributes:
        cameras: The simulated camera of each depth key.

    Raises:
        ValueError: Where no depth is found, frames are stacked already, `VecNormalize` standardises depth before, or a
            setting is missing.
    """

    def __init__(
        self,
        venv: VecEnv,
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
        check_vec_env(
            venv, "VecSimulateSensor", instead="Without Stable-Baselines3 there is defm_rl.gymnasium.SimulateSensor."
        )
        transform = SensorTransform(
            venv.observation_space,
            venv.num_envs,
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
        super().__init__(venv, transform)
        self.cameras = transform.cameras


class VecNormalizeFeatures(VecNormalize):
    """`VecNormalize` whose statistics are right for float16 observations, and belong to one encoder.

    NumPy returns the variance of float16 in float16. With 32 environments and a standard deviation beyond 45,
    `VecNormalize` computes an infinite variance, and every feature becomes 0.

    The observation space says what is standardised, so that SB3 refuses to load a policy that was trained on it for
    environments without statistics, and the other way round. `load` refuses features of another encoder, of other
    settings or weights than the statistics are of.
    """

    def __init__(self, venv: VecEnv, *args: Any, **kwargs: Any) -> None:
        check_vec_env(venv, "VecNormalizeFeatures")
        super().__init__(venv, *args, **kwargs)
        self._space_before = venv.observation_space
        if not self.norm_obs:
            return
        statistics: Any = self.obs_rms  # by key for a Dict
        if isinstance(statistics, dict):
            wide: Any = {key: _Float64MeanStd(shape=rms.mean.shape) for key, rms in statistics.items()}
        else:
            wide = _Float64MeanStd(shape=statistics.mean.shape)
        self.obs_rms = wide
        space = self.observation_space
        boxes = {key: standardized_space(box, self.clip_obs) for key, box in self._boxes(space).items()}
        self.observation_space = with_leaves(space, boxes)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # In older files the space is the one before.
        super().__setstate__({"_space_before": state["observation_space"], **state})

    def set_venv(self, venv: VecEnv) -> None:
        """Sets the environments.

        Raises:
            ValueError: Where they give something else than the statistics are of, such as another encoder's features.
        """
        given = self._boxes(venv.observation_space)
        for key, box in self._boxes(self._space_before).items():
            if given[key] == box:
                continue
            if _says_nothing(box) and given[key].shape == box.shape:
                logger.warning("Whether the statistics are of these environments' %r cannot be told: %s.", key, box)
                continue
            raise ValueError(
                f"The statistics are of {box}, but {key!r} of these environments is {given[key]}. Statistics and "
                "policy go with the encoder, the weights and the settings that they were trained with."
            )
        super().set_venv(venv)

    def _boxes(self, space: spaces.Space[Any]) -> dict[str, spaces.Box]:
        """What is standardised."""
        if not self.norm_obs:
            return {}
        if not isinstance(space, spaces.Dict):
            return {ONLY_KEY: space}  # type: ignore[dict-item]
        return {key: space.spaces[key] for key in self.norm_obs_keys or ()}  # type: ignore[misc]


def _says_nothing(box: spaces.Box) -> bool:
    """Whether bounds hold no origin: as of features that were stacked and saved when origins were no part of bounds."""
    return not np.isfinite(box.low).any()


class _Float64MeanStd(RunningMeanStd):
    def update(self, arr: NDArray[Any]) -> None:
        super().update(arr.astype(np.float64))


def _check_chain(venv: VecEnv, transform: Transform) -> None:
    """Refuses wrappers around raw depth that leave no depth images of it."""
    keys = set(transform.layouts)
    while isinstance(venv, VecEnvWrapper):
        # Without a Dict, a VecNormalize has no keys to choose from.
        if isinstance(venv, VecNormalize) and venv.norm_obs:
            standardised = keys & set(venv.norm_obs_keys or keys)
            if standardised:
                raise ValueError(
                    f"VecNormalize standardises {', '.join(sorted(standardised))}, which is then no depth in metres "
                    "any more. Leave it out there (norm_obs_keys=[...], or norm_obs=False where there is no other), "
                    "and standardise the features behind this wrapper (VecNormalizeFeatures)."
                )
        elif isinstance(venv, VecFrameStack):
            before, after = leaves(venv.venv.observation_space), leaves(venv.observation_space)
            for key in keys:
                _check_stack(key, before[key], after[key], venv.stacked_obs.n_stack)
        elif isinstance(venv, VecExtractDictObs):
            keys = {venv.key}
        venv = venv.venv


def _check_stack(key: str, before: spaces.Space[Any], after: spaces.Space[Any], n_stack: int) -> None:
    """Refuses stacks that join images at their edges, where they should lie one behind another."""
    one, stack = DepthLayout.of(before, key), DepthLayout.of(after, key)
    if stack.size == one.size and stack.frames == n_stack * one.frames:
        return
    shape: tuple[int, ...] = before.shape or ()
    if len(shape) == 2:
        remedy = "Give depth an axis for frames, (1, H, W), and stack along it by channels_order='first'"
    else:
        remedy = f"Stack by channels_order={'first' if shape[0] == one.frames else 'last'!r}"
    raise ValueError(
        f"VecFrameStack joins the images of {key!r}, {shape}, at their edges: {after.shape} is one image of {n_stack} "
        f"scenes. {remedy}, or stack behind this wrapper, where each frame is encoded only once."
    )
