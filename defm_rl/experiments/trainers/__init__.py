"""What trains a policy: one module for each library, all with the same three names."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Protocol

from defm_rl.experiments.config import AlgoConfig, Config
from defm_rl.experiments.episodes import Policy, WatchEpisodes
from defm_rl.experiments.progress import Progress

_MODULES = {"ppo": "sb3", "sac": "sb3"}


class Trainer(Protocol):
    """Trains one policy."""

    @property
    def steps(self) -> int:
        """Environment steps so far, all environments together."""

    @property
    def policy(self) -> Policy:
        """The policy as it is now, acting without exploring."""

    def learn(self, total_steps: int, progress: Progress) -> None:
        """Trains up to so many steps, or until `progress` says that time is up."""

    def save(self, folder: Path) -> None:
        """Writes all that is needed to go on, and to act, into a folder."""


def make_trainer(config: Config, env: WatchEpisodes, checkpoint: Path | None = None, steps: int = 0) -> Trainer:
    """The trainer of a configuration's algorithm.

    Args:
        config: The experiment.
        env: Environments as the policy sees them.
        checkpoint: A folder that `save` filled, to go on from.
        steps: The steps behind it.
    """
    make: Callable[[Config, WatchEpisodes, Path | None, int], Trainer] = _module(config.algo).make_trainer
    return make(config, env, checkpoint, steps)


def load_policy(config: Config, checkpoint: Path) -> Policy:
    """The policy from a folder that a trainer's `save` filled."""
    load: Callable[[Config, Path], Policy] = _module(config.algo).load_policy
    return load(config, checkpoint)


def _module(algo: AlgoConfig):  # type: ignore[no-untyped-def]  # a module's names are found when it is imported
    return import_module(f"{__name__}.{_MODULES[algo.name]}")
