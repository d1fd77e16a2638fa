"""panda-gym's arm on PyBullet with a depth camera: all that has to be written for a task that gives no depth itself."""

from typing import Any

import gymnasium
import numpy as np
import panda_gym  # noqa: F401  registers its tasks
import pybullet
from gymnasium import spaces

NEAR_M, FAR_M = 0.1, 3.0  # the z-buffer's planes: env.near and env.far
FOV_DEG = 30.0  # vertical


class DepthCamera(gymnasium.ObservationWrapper):
    """Adds PyBullet's z-buffer, (height, width) from 0 to 1, to the observations of one of panda-gym's tasks."""

    def __init__(self, env: gymnasium.Env, size: tuple[int, int]) -> None:
        super().__init__(env)
        self._size = height, width = size
        self._client = env.unwrapped.sim.physics_client
        # Above the table, before the arm.
        self._view = self._client.computeViewMatrixFromYawPitchRoll([0.0, 0.0, 0.1], 0.9, 90.0, -50.0, 0.0, 2)
        self._projection = self._client.computeProjectionMatrixFOV(FOV_DEG, width / height, NEAR_M, FAR_M)
        depth = spaces.Box(0.0, 1.0, size, np.float32)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, "depth": depth})

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Draws."""
        height, width = self._size
        drawn = self._client.getCameraImage(
            width, height, self._view, self._projection, renderer=pybullet.ER_TINY_RENDERER, shadow=0
        )
        return {**observation, "depth": np.asarray(drawn[3], np.float32).reshape(height, width)}


def make(task: str = "PandaReachDense-v3", size: tuple[int, int] = (64, 96), **kwargs: Any) -> gymnasium.Env:
    """The task with its camera."""
    return DepthCamera(gymnasium.make(task, **kwargs).unwrapped, tuple(size))


gymnasium.register("PandaDepth-v0", entry_point=make, max_episode_steps=50)
