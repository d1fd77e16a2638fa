"""Depth-camera tasks on MuJoCo, for `gymnasium.make_vec("defm_rl/Navigation-v0", num_envs=16)` and `gymnasium.make`.

MuJoCo is imported with the first task that is used, so that the Isaac Lab tasks in `defm_rl.envs.isaaclab` do without.
"""

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from defm_rl.envs.locomotion import LocomotionConfig, LocomotionEnv, LocomotionVectorEnv
    from defm_rl.envs.manipulation import ManipulationConfig, ManipulationEnv, ManipulationVectorEnv
    from defm_rl.envs.navigation import NavigationConfig, NavigationEnv, NavigationVectorEnv
    from defm_rl.envs.randomization import RANDOMIZATIONS, Randomization

__all__ = [
    "RANDOMIZATIONS",
    "LocomotionConfig",
    "LocomotionEnv",
    "LocomotionVectorEnv",
    "ManipulationConfig",
    "ManipulationEnv",
    "ManipulationVectorEnv",
    "NavigationConfig",
    "NavigationEnv",
    "NavigationVectorEnv",
    "Randomization",
]

_TASKS = ("Navigation", "Locomotion", "Manipulation")
_MODULES = {
    **{f"{task}{kind}": task.lower() for task in _TASKS for kind in ("Config", "Env", "VectorEnv")},
    "RANDOMIZATIONS": "randomization",
    "Randomization": "randomization",
}

for _task in _TASKS:
    gymnasium.register(
        f"defm_rl/{_task}-v0",
        entry_point=f"defm_rl.envs.{_task.lower()}:{_task}Env",
        vector_entry_point=f"defm_rl.envs.{_task.lower()}:{_task}VectorEnv",
    )


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
