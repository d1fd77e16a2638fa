"""Our Isaac Lab tasks behind gymnasium's vector interface, with the account of episodes that the MuJoCo tasks give."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.envs.isaaclab.mdp import layouts_of
from defm_rl.observations import to_float16

_FAILURES = {"success": "", "time_out": "timeout"}  # by termination term; other terms are called as they are


class IsaacLabVectorEnv(VectorEnv[dict[str, Tensor], NDArray[Any], NDArray[Any]]):
    """A manager-based task with same-step autoreset.

    Observations stay tensors on the simulation's device. Rewards, ends and `infos["final_info"]` are arrays. The
    last hold, of episodes that have ended, `success`, `failure` ("" after a success, else "collision" or "timeout"),
    `layout_seed` (the world's number, or `defm_rl.envs.isaaclab.layouts.DRAWN`) and `steps`. Last observations are not
    given.

    Args:
        env: What `gymnasium.make` gives for one of our tasks.
        groups: Observation groups by the name of the observation that each becomes.
        compact: The observations that are given in float16: images and features.
    """

    def __init__(self, env: Any, groups: Mapping[str, str], compact: tuple[str, ...] = ()) -> None:
        self.env, self.task = env, env.unwrapped
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = self.task.num_envs
        self.max_episode_steps = self.task.max_episode_length
        self._groups, self._compact = dict(groups), compact
        self._layouts = layouts_of(self.task)
        shapes = self.task.observation_manager.group_obs_dim
        self.single_observation_space = spaces.Dict(
            {
                name: spaces.Box(-np.inf, np.inf, shapes[group], np.float16 if name in compact else np.float32)
                for name, group in self._groups.items()
            }
        )
        self.single_action_space = spaces.Box(-1.0, 1.0, (self.task.action_manager.total_action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Begins episodes everywhere; the seed is of everything random in the process."""
        observations, _ = self.task.reset(seed=None if seed is None else seed % 2**31)
        return self._observed(observations), {}

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[dict[str, Tensor], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps."""
        numbers = self._layouts.numbers.clone()
        steps = self.task.episode_length_buf + 1
        observations, rewards, terminated, truncated, _ = self.task.step(torch.as_tensor(actions, dtype=torch.float32))
        ended = terminated | truncated
        infos: dict[str, Any] = {}
        if bool(ended.any()):
            infos["final_info"] = self._final_info(numbers, steps)
            infos["_final_info"] = _array(ended)
        return self._observed(observations), _array(rewards), _array(terminated), _array(truncated), infos

    def close_extras(self, **kwargs: Any) -> None:
        """Ends the simulation."""
        self.env.close()

    def _final_info(self, numbers: Tensor, steps: Tensor) -> dict[str, NDArray[Any]]:
        """How the episodes ended that did; what stands there of the others means nothing."""
        manager = self.task.termination_manager
        names = manager.active_terms
        fired = torch.stack([manager.get_term(name) for name in names], 1)
        why = np.array([_FAILURES.get(name, name) for name in names])[_array(fired.int().argmax(1))]
        return {"success": why == "", "failure": why, "layout_seed": _array(numbers), "steps": _array(steps)}

    def _observed(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: to_float16(observations[group]) if name in self._compact else observations[group]
            for name, group in self._groups.items()
        }


def _array(tensor: Tensor) -> NDArray[Any]:
    """A copy."""
    array: NDArray[Any] = tensor.cpu().numpy().copy()
    return array
