"""Depth-camera tasks on MuJoCo, for `gymnasium.make_vec("defm_rl/Navigation-v0", num_envs=16)` and `gymnasium.make`."""

import gymnasium

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

gymnasium.register(
    "defm_rl/Navigation-v0",
    entry_point="defm_rl.envs.navigation:NavigationEnv",
    vector_entry_point="defm_rl.envs.navigation:NavigationVectorEnv",
)
gymnasium.register(
    "defm_rl/Locomotion-v0",
    entry_point="defm_rl.envs.locomotion:LocomotionEnv",
    vector_entry_point="defm_rl.envs.locomotion:LocomotionVectorEnv",
)
gymnasium.register(
    "defm_rl/Manipulation-v0",
    entry_point="defm_rl.envs.manipulation:ManipulationEnv",
    vector_entry_point="defm_rl.envs.manipulation:ManipulationVectorEnv",
)
