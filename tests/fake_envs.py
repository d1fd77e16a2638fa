"""Tiny environments with a depth camera, for tests of adapters."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.vec_env import DummyVecEnv

ENCODER = {"encoder": "defm_regnet_y_400mf", "weights": "random"}
PPO_SETTINGS = {"n_steps": 4, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0}
REPLAY_SETTINGS = {
    "learning_starts": 4,
    "batch_size": 4,
    "buffer_size": 20,
    "train_freq": 4,
    "device": "cpu",
    "seed": 0,
}
IMAGE = (32, 32)


class DepthEnv(gym.Env[Any, Any]):
    """Random depth images up to 5 m; moving right is rewarded.

    Args:
        episode_steps: Steps after which the episode ends.
        ends: How: by "truncated", "terminated", or both.
        discrete: Whether actions are discrete.
        box: Whether the observation is the depth alone.
        cameras: Keys of the depth cameras.
        millimetres: Whether depth is uint16 millimetres.
        shape: Shape of the depth.
        discrete_key: Whether there is a discrete key among the observations.
    """

    def __init__(
        self,
        episode_steps: int = 5,
        ends: tuple[str, ...] = ("truncated",),
        discrete: bool = False,
        box: bool = False,
        cameras: tuple[str, ...] = ("depth",),
        millimetres: bool = False,
        shape: tuple[int, ...] = (1, *IMAGE),
        discrete_key: bool = False,
    ) -> None:
        self.episode_steps, self.ends = episode_steps, ends
        self.box, self.cameras, self.millimetres = box, cameras, millimetres
        depth = spaces.Box(0, 65535, shape, np.uint16) if millimetres else spaces.Box(0.0, 100.0, shape, np.float32)
        keys: dict[str, spaces.Space[Any]] = dict.fromkeys(cameras, depth)
        keys["state"] = spaces.Box(-1.0, 1.0, (3,), np.float32)
        if discrete_key:
            keys["gait"] = spaces.Discrete(4)
        self.observation_space = depth if box else spaces.Dict(keys)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {"layout": float(self.np_random.random()), **(options or {})}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended = self.steps >= self.episode_steps
        info = {"success": True, "spl": 0.5} if ended else {"steps": self.steps}
        reward = float(np.asarray(action).mean())
        return self._observe(), reward, ended and "terminated" in self.ends, ended and "truncated" in self.ends, info

    def _observe(self) -> Any:
        depth = {}
        for camera in self.cameras:
            space = self.observation_space if self.box else self.observation_space[camera]
            metres = self.np_random.uniform(0.5, 5.0, space.shape)
            depth[camera] = (metres * 1000 if self.millimetres else metres).astype(space.dtype)
        if self.box:
            return depth["depth"]
        rest = {"state": self.np_random.uniform(-1, 1, 3).astype(np.float32)}
        if "gait" in self.observation_space.spaces:
            rest["gait"] = np.int64(self.np_random.integers(4))
        return {**depth, **rest}


def vec_env(num_envs: int = 2, seed: int | None = 0, **kwargs: Any) -> DummyVecEnv:
    env = DummyVecEnv([lambda: DepthEnv(**kwargs)] * num_envs)
    env.seed(seed)
    return env


def vector_env(
    num_envs: int = 2, mode: AutoresetMode = AutoresetMode.SAME_STEP, copy: bool = True, **kwargs: Any
) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda: DepthEnv(**kwargs)] * num_envs, autoreset_mode=mode, copy=copy)
