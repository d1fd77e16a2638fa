"""What trains a policy: one module for each library, all with the same four functions."""

from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from defm_rl.experiments.config import AlgoConfig, Config, ConfigError
from defm_rl.experiments.episodes import Policy, Seeing, WatchEpisodes
from defm_rl.experiments.progress import Progress
from defm_rl.experiments.trainers import shared

_MODULES = {"ppo": "sb3", "sac": "sb3", "rsl_ppo": "rsl_rl", "distillation": "rsl_rl"}


class Trainer(Protocol):
    """Trains one policy."""

    @property
    def steps(self) -> int:
        """Environment steps so far, all environments together."""

    @property
    def policy(self) -> Policy:
        """The policy as it is now, acting without exploring."""

    @property
    def origin(self) -> dict[str, Any]:
        """What the policy was made from besides its configuration, such as a teacher."""

    def learn(self, total_steps: int, progress: Progress) -> None:
        """Trains up to so many steps, or until `progress` says that time is up."""

    def save(self, folder: Path) -> None:
        """Writes all that is needed to go on, and to act, into a folder."""


def training_keys(config: Config, checkpoint: Path | None = None) -> tuple[str, ...]:
    """The observations that the environments have to give while the policy trains.

    Raises:
        ConfigError: Where a student's teacher is not there or does not fit.
    """
    keys: Callable[[Config, Path | None], tuple[str, ...]] = _module(config.algo).training_keys
    return keys(config, checkpoint)


def make_trainer(
    config: Config, env: WatchEpisodes, checkpoint: Path | None = None, steps: int = 0, changed: Collection[str] = ()
) -> Trainer:
    """The trainer of a configuration's algorithm.

    Args:
        config: The experiment.
        env: Environments as the policy sees them.
        checkpoint: A folder that `save` filled, to go on from.
        steps: The steps behind it.
        changed: Keys that are set anew since.

    Raises:
        ConfigError: Where the checkpoint is one that was shared.
    """
    if checkpoint is not None and (checkpoint / shared.FILE).exists():
        raise ConfigError(
            f"{checkpoint.parent} was pulled: it holds what acts, and not what learning goes on with, such as the "
            "optimizer's state. It can be evaluated, exported, adapted and, as a teacher, be learned from."
        )
    make: Callable[..., Trainer] = _module(config.algo).make_trainer
    return make(config, env, checkpoint, steps, changed)


def load_policy(config: Config, checkpoint: Path) -> Seeing:
    """The policy from a folder that a trainer's `save`, or `share_policy`, filled."""
    load: Callable[[Config, Path], Seeing] = _module(config.algo).load_policy
    return load(config, checkpoint)


def share_policy(config: Config, checkpoint: Path, folder: Path) -> None:
    """Writes what acts into a folder, as tensors without pickles; see `shared`.

    Args:
        config: The experiment.
        checkpoint: A folder that a trainer's `save` filled.
        folder: Where to; it is there.

    Raises:
        ConfigError: For a policy that is more than tensors and spaces.
    """
    share: Callable[[Config, Path, Path], None] = _module(config.algo).share_policy
    share(config, checkpoint, folder)


def _module(algo: AlgoConfig) -> Any:
    return import_module(f"{__name__}.{_MODULES[algo.name]}")
