"""A gymnasium vector environment behind RSL-RL's interface."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from rsl_rl.env import VecEnv
from tensordict import TensorDict
from torch import Tensor

from defm_rl.interfaces import check_vector_env
from defm_rl.observations import Observation, as_array, leaves


class RslRlVecEnv(VecEnv):  # type: ignore[misc]  # RSL-RL is not typed
    """Adapts a gymnasium `VectorEnv` with Dict observations to RSL-RL's `VecEnv`.

    Each key becomes an observation group of that name, in its own dtype (float64 in float32): the rollout storage holds
    float16 features and uint16 millimetres as they are. In dicts within dicts a key is a path, such as
    "sensor_data/base_camera/depth". Actions are clipped to the action space's bounds. Where the environment gives
    tensors, it is given tensors, and nothing passes through NumPy.

    `extras["time_outs"]` marks the episodes that were cut off by the time limit and did not end by themselves. RSL-RL
    adds the discounted value of the observation *before* the cut to their last reward, and never sees the one after it.

    `extras["log"]` holds, whenever episodes end, the mean of every number in their last infos.

    Args:
        env: A vector environment with same-step autoreset.
        device: Where RSL-RL's tensors are.
        cfg: What RSL-RL's loggers store as the environment's configuration.
        seed: Of the first reset.
        max_episode_length: Steps after which episodes are cut off. Default: what the environment says.

    Raises:
        ValueError: Where the environment resets itself otherwise, or its spaces do not fit.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        device: str | torch.device = "cpu",
        cfg: Mapping[str, Any] | None = None,
        seed: int | None = None,
        max_episode_length: int | None = None,
    ) -> None:
        check_vector_env(
            env,
            "RslRlVecEnv",
            instead="Pass what gymnasium.make_vec(id, num_envs=...) makes.",
            same_step=True,
        )
        _check_spaces(env)
        self.env = env
        self.num_envs = env.num_envs
        self.num_actions = int(np.prod(env.single_action_space.shape))  # type: ignore[arg-type]
        self.device = torch.device(device)
        self.cfg = dict(cfg or {})
        self.max_episode_length = max_episode_length or _max_episode_length(env)
        self._lengths = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        observations = env.reset(seed=seed)[0]
        part = next(iter(leaves(observations).values()))
        self._env_device = part.device if isinstance(part, Tensor) else None  # None where it gives arrays
        self._observations = self._as_groups(observations)

    @property
    def episode_length_buf(self) -> Tensor:
        """Steps of the episodes under way, (num_envs,)."""
        return self._lengths

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        raise NotImplementedError(
            "The environment counts its own steps: call learn() with init_at_random_ep_len=False, which is its default."
        )

    def reset(self, seed: int | None = None) -> TensorDict:
        """Begins new episodes everywhere, and returns their first observations."""
        self._lengths.zero_()
        self._observations = self._as_groups(self.env.reset(seed=seed)[0])
        return self._observations

    def get_observations(self) -> TensorDict:
        """The current observations, by group."""
        return self._observations

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Steps all environments.

        Args:
            actions: (num_envs, num_actions).

        Returns:
            Observations by group, those of new episodes where one has ended; rewards, (num_envs,) float32; dones,
            (num_envs,) int64; and extras.
        """
        space = self.env.single_action_space
        assert isinstance(space, spaces.Box)
        low, high = (torch.as_tensor(bound, device=actions.device) for bound in (space.low, space.high))
        clipped = actions.detach().reshape(self.num_envs, *space.shape).clamp(low, high)
        given = clipped.cpu().numpy() if self._env_device is None else clipped.to(self._env_device)
        observations, rewards, terminated, truncated, infos = self.env.step(given)
        terminated, truncated = self._tensor(terminated), self._tensor(truncated)
        ended = terminated | truncated
        extras: dict[str, Any] = {"time_outs": truncated & ~terminated}
        if ended.any():
            extras["log"] = _means(infos.get("final_info"), ended.cpu().numpy())
        self._lengths += 1
        self._lengths[ended] = 0
        self._observations = self._as_groups(observations)
        return self._observations, self._tensor(rewards).float(), ended.long(), extras

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def _as_groups(self, observations: Observation) -> TensorDict:
        groups = {key: self._tensor(part) for key, part in leaves(observations).items()}
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    def _tensor(self, array: NDArray[Any] | Tensor) -> Tensor:
        """A copy: a vector environment may write the next observations into the same arrays."""
        tensor = torch.as_tensor(array).to(self.device, copy=True)
        return tensor.float() if tensor.dtype == torch.float64 else tensor


def _check_spaces(env: VectorEnv[Any, Any, Any]) -> None:
    observations, actions = env.single_observation_space, env.single_action_space
    if not isinstance(observations, spaces.Dict):
        raise ValueError(
            f"Observations must be a Dict, whose keys become RSL-RL's observation groups; got {observations}."
        )
    for key, box in leaves(observations).items():
        if not isinstance(box, spaces.Box):
            raise ValueError(f"RSL-RL takes tensors of numbers: the observation {key!r} must be a Box, got {box}.")
    if not isinstance(actions, spaces.Box):
        raise ValueError(f"RSL-RL's policies are continuous: actions must be a Box, got {actions}.")


def _max_episode_length(env: VectorEnv[Any, Any, Any]) -> int:
    steps = getattr(env.unwrapped, "max_episode_steps", None) or (env.spec and env.spec.max_episode_steps)
    return int(steps or torch.iinfo(torch.int32).max)


def _means(info: Any, ended: NDArray[np.bool_], name: str = "Episode") -> dict[str, float]:
    """The mean over the episodes that have ended of every number that is reported of them."""
    means: dict[str, float] = {}
    for key, values in info.items() if isinstance(info, Mapping) else ():
        path, values = f"{name}/{key}", as_array(values)
        if isinstance(values, Mapping):
            means |= _means(values, ended, path)
        number = isinstance(values, np.ndarray) and values.shape == ended.shape and values.dtype.kind in "biuf"
        if number and not str(key).startswith("_") and key != "layout_seed":
            having = ended & np.asarray(as_array(info.get(f"_{key}", True)), bool)
            if having.any():
                means[path] = float(values[having].mean())
    return means
