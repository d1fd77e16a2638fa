"""Where environments come from: one module for each kind of simulator, all behind one interface."""

from importlib import import_module
from typing import Any

from defm_rl.experiments.config import EnvConfig
from defm_rl.experiments.tasks.base import IDEAL, Ability, DepthCamera, Map, Task

__all__ = ["IDEAL", "Ability", "DepthCamera", "Map", "Task", "make_task"]


def make_task(config: EnvConfig) -> Task[Any]:
    """The task that a configuration names; its simulator is not started, nor imported, before it has to be."""
    task: Task[Any] = import_module(f"{__name__}.{config.simulator}").make_task(config)
    return task
