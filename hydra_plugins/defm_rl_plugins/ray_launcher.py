"""`hydra/launcher=ray`: each run is a task of a Ray cluster, the one on this machine or any other."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class RayLauncher(Launcher):
    """Launches runs as tasks of Ray.

    Args:
        init: For `ray.init`.
        remote: For `ray.remote`: what a run needs, and how often it is begun again where its worker dies.
    """

    hydra_context: HydraContext
    task_function: TaskFunction

    def __init__(self, init: DictConfig, remote: DictConfig) -> None:
        self.init, self.remote = init, remote

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keeps what every launcher is given."""
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Runs jobs, as many at a time as the cluster has room for."""
        from defm_rl.experiments.ray import launch

        return launch(self, job_overrides, initial_job_idx)


@dataclass
class RayConf:
    """What `hydra.launcher` takes."""

    _target_: str = f"{__name__}.RayLauncher"
    init: dict[str, Any] = field(default_factory=lambda: {"num_cpus": None, "include_dashboard": False})
    remote: dict[str, Any] = field(default_factory=lambda: {"num_cpus": 1, "num_gpus": 0, "max_retries": 3})


ConfigStore.instance().store(group="hydra/launcher", name="ray", node=RayConf, provider="defm-rl")
