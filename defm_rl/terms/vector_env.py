"""Manager-based tasks behind gymnasium's vector interface, with the account of episodes that the MuJoCo tasks give."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.observations import to_float16
from defm_rl.terms.sharing import SharedDepth

SUCCESS, TIME_OUT = "success", "time_out"
"""Terminations that are no failures; others are called as they are."""


class ManagerVectorEnv(VectorEnv[dict[str, Tensor], NDArray[Any], NDArray[Any]]):
    """A manager-based task of Isaac Lab or mjlab with same-step autoreset.

    Observations stay tensors on the simulation's device. Rewards, ends and `infos["final_info"]` are arrays. The
    last hold, of episodes that have ended, `success` where the task knows of it, `failure` ("" after a success, else
    the termination's name, or "timeout"; where the task knows of no success, a time-out is no failure either),
    `layout_seed` (the episode's number) and `steps`. Last observations are not given.

    Args:
        task: The environment, a `ManagerBasedRLEnv` or `ManagerBasedRlEnv`.
        groups: Observation groups by the name of the observation that each becomes.
        compact: The observations that are given in float16: images and features.
        numbers: Gives the numbers of the episodes under way, (num_envs,) integers, negative where they have none;
            simulated sensors' random numbers follow them. It must not hold the environment.
        success: Gives whether each environment's last episode succeeded, (num_envs,) bool. Default: where a termination
            "success" ended it.
        max_action: Actions are a Box from -this to this.
    """

    def __init__(
        self,
        task: Any,
        groups: Mapping[str, str],
        compact: tuple[str, ...] = (),
        *,
        numbers: Callable[[], Tensor],
        success: Callable[[], Tensor] | None = None,
        max_action: float = 1.0,
    ) -> None:
        self.task = task
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = task.num_envs
        self.max_episode_steps = task.max_episode_length
        self._groups, self._compact = dict(groups), compact
        self._numbers, self._success = numbers, success
        SharedDepth.of(task).episodes = numbers
        shapes = task.observation_manager.group_obs_dim
        self.single_observation_space = spaces.Dict(
            {
                name: spaces.Box(
                    0.0 if len(shapes[group]) == 3 else -np.inf,  # of images: metres
                    np.inf,
                    shapes[group],
                    np.float16 if name in compact else np.float32,
                )
                for name, group in self._groups.items()
            }
        )
        shape = (task.action_manager.total_action_dim,)
        self.single_action_space = spaces.Box(-max_action, max_action, shape, np.float32)
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
        numbers = self._numbers().clone()
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
        self.task.close()

    def _final_info(self, numbers: Tensor, steps: Tensor) -> dict[str, NDArray[Any]]:
        """How the episodes ended that did; what stands there of the others means nothing."""
        manager = self.task.termination_manager
        names = list(manager.active_terms)
        fired = torch.stack([manager.get_term(name) for name in names], 1)
        why = np.array(names)[_array(fired.int().argmax(1))]
        last = {"layout_seed": _array(numbers), "steps": _array(steps)}
        if self._success is None and SUCCESS not in names:
            return {**last, "failure": np.where(why == TIME_OUT, "", why)}
        success = why == SUCCESS if self._success is None else _array(self._success())
        failure = np.where(success, "", np.where(why == TIME_OUT, "timeout", why))
        return {**last, "success": success, "failure": failure}

    def _observed(self, observations: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: to_float16(observations[group]) if name in self._compact else observations[group]
            for name, group in self._groups.items()
        }


def _array(tensor: Tensor) -> NDArray[Any]:
    """A copy."""
    array: NDArray[Any] = tensor.cpu().numpy().copy()
    return array
