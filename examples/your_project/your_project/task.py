"""On which side is the near half of the image? Known to gymnasium as `your_project/WhichSide-v0`."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces


class WhichSide(gymnasium.Env[dict[str, Any], np.ndarray]):
    """Four steps with one image each; an episode succeeds where most actions pointed to the nearer side."""

    def __init__(self) -> None:
        self.observation_space = spaces.Dict(
            {
                "depth": spaces.Box(0.0, 10.0, (1, 32, 40), np.float32),
                "step": spaces.Box(0.0, 4.0, (1,), np.float32),
            }
        )
        self.action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        """Begins an episode."""
        super().reset(seed=seed)
        self._steps = self._right = 0
        return self._look(), {}

    def step(self, action: np.ndarray) -> Any:
        """The reward is 1 for the nearer side."""
        right = (action[0] > 0) == self._near_is_right
        self._right += int(right)
        self._steps += 1
        ended = self._steps == 4
        return self._look(), float(right), ended, False, {"success": self._right > 2} if ended else {}

    def _look(self) -> dict[str, Any]:
        self._near_is_right = bool(self.np_random.random() < 0.5)
        depth = np.full((1, 32, 40), 2.5, np.float32)
        depth[:, :, 20:] -= 1.0 if self._near_is_right else 0.0
        depth[:, :, :20] -= 0.0 if self._near_is_right else 1.0
        return {"depth": depth, "step": np.array([self._steps], np.float32)}


gymnasium.register("your_project/WhichSide-v0", WhichSide)
