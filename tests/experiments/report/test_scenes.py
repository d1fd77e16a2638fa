"""Which frames of a task its features are compared on."""

import numpy as np
import pytest
from gymnasium import spaces

from defm_rl.experiments.config import Config, EncoderConfig
from defm_rl.experiments.report import scenes


class NumberedTask:
    """Every pixel shows which layout it is of: environments begin another one after each nine steps."""

    cameras = {"depth": None}

    def require(self, ability):
        assert ability is scenes.Ability.FRAMES

    def make(self, cameras, *, sensor, num_envs, layouts):
        assert sensor == "ideal"
        self.camera, self.steps, self.coming = cameras[0], 0, iter(layouts)
        self.action_space = spaces.MultiDiscrete([2] * num_envs)
        self.depth = np.zeros((num_envs, 1, 2, 2), np.float32)
        return self

    def reset(self, seed):
        self.depth[:] = np.reshape([next(self.coming) for _ in self.depth], (-1, 1, 1, 1))
        return {self.camera: self.depth.copy()}, {}

    def step(self, actions):
        self.steps += 1
        return self.reset(None) if self.steps % 9 == 0 else ({self.camera: self.depth.copy()}, {})

    def close(self):
        pass


@pytest.mark.parametrize("count", [256, 40])
def test_both_halves_of_the_frames_are_of_different_layouts(monkeypatch, count):
    monkeypatch.setattr(scenes, "make_task", lambda env: NumberedTask())
    found = scenes.scene_frames(Config(encoder=EncoderConfig(kind="defm")), count, 5)[:, 0, 0]
    assert len(found) == count
    assert not set(found[: count // 2]) & set(found[count // 2 :])
    assert set(range(5, 5 + 32)) <= set(found.astype(int))  # the first of every environment
