"""Depth-camera tasks on MuJoCo, for `gymnasium.make_vec("defm_rl/Navigation-v0", num_envs=16)` and `gymnasium.make`.

MuJoCo is imported with the first task that is used, so that the Isaac Lab tasks in `defm_rl.envs.isaaclab` do without.
"""

import importlib
from typing import TYPE_CHECKING, Any

import gymnasium

if TYPE_CHECKING:
    from defm_rl.envs.navigation import NavigationConfig, NavigationEnv, NavigationVectorEnv
    from defm_rl.envs.randomization import RANDOMIZATIONS, Randomization

__all__ = ["RANDOMIZATIONS", "NavigationConfig", "NavigationEnv", "NavigationVectorEnv", "Randomization"]

_MODULES = {
    "NavigationConfig": "navigation",
    "NavigationEnv": "navigation",
    "NavigationVectorEnv": "navigation",
    "RANDOMIZATIONS": "randomization",
    "Randomization": "randomization",
}

gymnasium.register(
    "defm_rl/Navigation-v0",
    entry_point="defm_rl.envs.navigation:NavigationEnv",
    vector_entry_point="defm_rl.envs.navigation:NavigationVectorEnv",
)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
