"""mjlab's environments with episodes that have numbers."""

from collections.abc import Sequence
from typing import Any

import torch
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from mjlab.tasks.manipulation.mdp import LiftingCommand
from torch import Tensor

DRAWN = -1
"""Stands for the number of an episode that has none."""


class NumberedEnv(ManagerBasedRlEnv):
    """A manager-based task that plays chosen episodes first after each reset of all environments.

    How such an episode begins follows from its number, wherever and beside whatever others it is played: whatever is
    drawn at its reset is drawn from a generator with that seed. What is drawn later, such as noise, is not.

    Args:
        cfg: The configuration.
        device: Of the simulation.
        numbers: The episodes to play first, in this order.

    Attributes:
        numbers: The episode that each environment plays, (num_envs,), or `DRAWN`.
        succeeded: Whether each environment's last episode reached the goal of its command, (num_envs,) bool; of tasks
            that have no such goal all are false.
    """

    def __init__(self, cfg: ManagerBasedRlEnvCfg, device: str, numbers: Sequence[int] = ()) -> None:
        self.numbers = torch.full((cfg.scene.num_envs,), DRAWN, device=device)
        self.succeeded = torch.zeros(cfg.scene.num_envs, dtype=torch.bool, device=device)
        self._first, self._waiting = list(numbers), list[int]()
        super().__init__(cfg, device)

    @property
    def knows_success(self) -> bool:
        """Whether the task has a goal."""
        return bool(self._goals)

    def reset(self, *, env_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """Begins episodes, everywhere the chosen ones."""
        if env_ids is None:
            self._waiting = list(self._first)
        return super().reset(env_ids=env_ids, **kwargs)

    @property
    def _goals(self) -> list[LiftingCommand]:
        terms = (self.command_manager.get_term(name) for name in self.command_manager.active_terms)
        return [term for term in terms if isinstance(term, LiftingCommand)]

    def _reset_idx(self, env_ids: Tensor) -> None:
        for command in self._goals:
            self.succeeded[env_ids] = command.episode_success[env_ids] > 0
        self.numbers[env_ids] = DRAWN
        chosen, self._waiting = self._waiting[: len(env_ids)], self._waiting[len(env_ids) :]
        for env_id, number in zip(env_ids[: len(chosen)], chosen, strict=True):
            self.numbers[env_id] = number
            with torch.random.fork_rng(_generators(env_ids.device)):
                torch.manual_seed(number)
                super()._reset_idx(env_id[None])
        if len(env_ids) > len(chosen):
            super()._reset_idx(env_ids[len(chosen) :])


def _generators(device: torch.device) -> list[torch.device]:
    """The devices beside the CPU whose generators a reset may draw from."""
    return [device] if device.type == "cuda" else []
