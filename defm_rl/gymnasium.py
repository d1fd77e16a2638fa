"""Vector wrappers for gymnasium: depth becomes encoder features, or the encoders' three input channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from defm_rl.encoders import DepthEncoder
from defm_rl.observations import DepthTransform, EncodingTransform, NormalizingTransform, Observation

__all__ = ["EncodeDepth", "NormalizeDepth"]


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
