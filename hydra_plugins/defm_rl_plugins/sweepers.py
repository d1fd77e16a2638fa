"""`hydra/sweeper=resumable`, the default of `defm-rl train --multirun`, and `hydra/sweeper=optuna`."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class _Launching(Sweeper):
    """Has a launcher; keeps what it is set up with."""

    hydra_context: HydraContext
    launcher: Launcher

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )


class ResumableSweeper(_Launching):
    """The product of all values, as Hydra's own sweeper has it, but for what is finished.

    Args:
        zip: Groups of keys that go through their values together.
        max_batch_size: Runs that are launched at a time.
        params: Overrides by key, before those of the command line.
    """

    def __init__(self, zip: Sequence[Sequence[str]], max_batch_size: int | None, params: dict[str, str]) -> None:  # noqa: A002
        self.zip, self.max_batch_size, self.params = zip, max_batch_size, params

    def sweep(self, arguments: list[str]) -> Any:
        """Runs what is to do."""
        from defm_rl.experiments.sweeping import sweep

        return sweep(self, arguments)


class OptunaSweeper(_Launching):
    """A search by Optuna's ask and tell.

    Args:
        params: Overrides by key, before those of the command line.
        settings: See `OptunaConf`.
    """

    def __init__(self, params: dict[str, str], **settings: Any) -> None:
        self.params, self.settings = params, settings

    def sweep(self, arguments: list[str]) -> Any:
        """Runs trials until there are as many as asked for."""
        from defm_rl.experiments.config import ConfigError
        from defm_rl.experiments.searching import search

        try:
            return search(self, arguments)
        except ConfigError as error:
            sys.stderr.write(f"hydra/sweeper=optuna: {error}\n")
            raise SystemExit(2) from error


@dataclass
class ResumableConf:
    """What `hydra.sweeper` takes."""

    _target_: str = f"{__name__}.ResumableSweeper"
    zip: list[list[str]] = field(default_factory=list)
    max_batch_size: int | None = None
    params: dict[str, Any] = field(default_factory=dict)


@dataclass
class OptunaConf:
    """What `hydra.sweeper` takes."""

    _target_: str = f"{__name__}.OptunaSweeper"
    n_trials: int = 20  # of the study, those of earlier starts included
    n_jobs: int = 1  # trials at a time, by the launcher
    direction: str = "maximize"  # success, else reward
    storage: str | None = None  # a URL such as sqlite:///study.db; null: study.log in the sweep's folder
    study_name: str = "${experiment}"
    trial: int | None = (
        None  # a trial's number: its settings are run, with what else is given, in the place of a search
    )
    sampler: str = "TPESampler"  # a class of optuna.samplers
    sampler_kwargs: dict[str, Any] = field(default_factory=lambda: {"seed": 0})
    params: dict[str, Any] = field(default_factory=dict)


_store = ConfigStore.instance().store
_store(group="hydra/sweeper", name="resumable", node=ResumableConf, provider="defm-rl")
_store(group="hydra/sweeper", name="optuna", node=OptunaConf, provider="defm-rl")
