"""Wrappers of vectorized environments: simulated cameras, depth encoded once or normalized for one's own network."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from defm_rl.encoders import DepthEncoder
from defm_rl.interfaces import check_vec_env
from defm_rl.observations import EncodingTransform, NormalizingTransform, Transform, rows_of, with_row
from defm_rl.sensors import MountingJitter, Sensor
from defm_rl.simulation import SensorTransform


class _VecTransformDepth(VecEnvWrapper):
    """Transforms observations, and in the infos the last ones of episodes, which SB3 bootstraps from on time-outs."""

    def __init__(self, venv: VecEnv, transform: Transform) -> None:
        super().__init__(venv, observation_space=transform.space)
        self._transform = transform
        self._seed: int | None = None
        _check_metres(venv, transform)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seeds the next reset, of what is random in the wrapper too."""
        self._seed = seed
        return self.venv.seed(seed)

    def reset(self) -> VecEnvObs:
        """Resets and transforms."""
        seed, self._seed = self._seed, None
        return self._transform.reset(self.venv.reset(), seed=seed)  # type: ignore[arg-type, return-value]

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
        )
        for row, index in enumerate(known):
            infos[index] = {**infos[index], "terminal_observation": with_row(last[row], rows, row)}
        return observations, rewards, dones, infos


class VecEncodeDepth(_VecTransformDepth):
    """Encodes each depth frame once: features in float16 take the place of depth.

    A Box observation becomes a Box of features; a Dict keeps its other keys. The rollout or replay buffer then holds a
    few hundred numbers a frame, and no epoch, critic or target network encodes again. Frames may be stacked before this
    wrapper (each is encoded, features are concatenated) or after it, which is cheaper. To standardise the features,
    wrap this in `VecNormalizeFeatures`. Features beyond float16's range (±65504) are clipped.

    A policy that is loaded with another encoder or other weights than it was trained with is refused by SB3, because
    the spaces differ: see `defm_rl.observations.FeatureBox`.

    Args:
        venv: The vectorized environment; its depth is in metres, unless `unit="mm"`. `VecFrameStack` before this one
            needs `channels_order="first"` for depth of shape (1, H, W): its default joins frames side by side.
        encoder: A published model's name, or a frozen `DepthEncoder`.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        device: Where the encoder runs. Default: CUDA if there is any, else the CPU.
        **encoder_kwargs: Settings of the `DepthEncoder`, such as weights, features, pool, unit.

    Attributes:
        encoder: The `DepthEncoder`.

    Raises:
        ValueError: Where the encoder is not frozen, no depth is found, or `VecNormalize` standardises it before.
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
        unit: Unit of the depth, "m" or "mm".
        dtype: float16, which halves the buffer, or float32.

    Raises:
        ValueError: Where no depth is found or `VecNormalize` standardises it before, or for another dtype.
    """

    def __init__(
        self,
        venv: VecEnv,
        *,
        depth_keys: Sequence[str] | None = None,
        size: int | tuple[int, int] | None = None,
        unit: str = "m",
        dtype: type[np.float16] | type[np.float32] = np.float16,
    ) -> None:
        check_vec_env(
            venv, "VecNormalizeDepth", instead="Without Stable-Baselines3 there is defm_rl.gymnasium.NormalizeDepth."
        )
        super().__init__(venv, NormalizingTransform(venv.observation_space, depth_keys, size, unit, dtype))


class VecSimulateSensor(_VecTransformDepth):
    """Depth as a simulated camera measures it; shape, dtype and unit of the observations stay what they are.

    Latency and frame rate belong to each environment's episode and begin anew with it; `terminal_observation` is what
    the camera showed at the end. Put it around the environment itself, and anything that stacks frames, encodes or
    normalizes around this.

    Args:
        venv: The vectorized environment; its depth is planar metres, unless `unit="mm"`.
        sensor: A sensor or its name, see `defm_rl.sensors.SENSORS`.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        step_s: Time between two steps; needed where the sensor has a latency or a frame rate.
        seed: Of the random numbers. `seed(...)`, which SB3's algorithms call, replaces it with the next reset.
        mounting: Turns each episode's images by random angles (its positions are left to the simulator).
        horizontal_fov_deg: Of the images; needed for the turning.
        unit: Unit of the depth, "m" or "mm".
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
        unit: str = "m",
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
            device=device,
        )
        super().__init__(venv, transform)
        self.cameras = transform.cameras


class VecNormalizeFeatures(VecNormalize):
    """`VecNormalize` whose statistics are right for float16 observations.

    NumPy returns the variance of float16 in float16. With 32 environments and a standard deviation beyond 45,
    `VecNormalize` computes an infinite variance, and every feature becomes 0.
    """

    def __init__(self, venv: VecEnv, *args: Any, **kwargs: Any) -> None:
        check_vec_env(venv, "VecNormalizeFeatures")
        super().__init__(venv, *args, **kwargs)
        if not self.norm_obs:
            return
        statistics: Any = self.obs_rms  # by key for a Dict
        if isinstance(statistics, dict):
            wide: Any = {key: _Float64MeanStd(shape=rms.mean.shape) for key, rms in statistics.items()}
        else:
            wide = _Float64MeanStd(shape=statistics.mean.shape)
        self.obs_rms = wide


class _Float64MeanStd(RunningMeanStd):
    def update(self, arr: NDArray[Any]) -> None:
        super().update(arr.astype(np.float64))


def _check_metres(venv: VecEnv, transform: Transform) -> None:
    while isinstance(venv, VecEnvWrapper):
        # Without a Dict, a VecNormalize has no keys to choose from.
        if isinstance(venv, VecNormalize) and venv.norm_obs:
            standardised = set(transform.layouts) & set(venv.norm_obs_keys or transform.layouts)
            if standardised:
                raise ValueError(
                    f"VecNormalize standardises {', '.join(sorted(standardised))}, which is then no depth in metres "
                    "any more. Leave it out there (norm_obs_keys=[...], or norm_obs=False where there is no other), "
                    "and standardise the features behind this wrapper (VecNormalizeFeatures)."
                )
        venv = venv.venv
