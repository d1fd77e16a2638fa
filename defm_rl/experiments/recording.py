"""Recording what an animation shows of episodes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from defm_rl.envs.layouts import Layout
from defm_rl.experiments.episodes import Episode


@dataclass
class Recording:
    """What an animation shows of one episode."""

    layout: Layout
    poses: list[NDArray[Any]] = field(default_factory=list)  # (3,): x, y in metres, yaw in radians
    depth: list[NDArray[Any]] = field(default_factory=list)  # (H, W) metres
    outcome: Episode | None = None


class Camera(VectorWrapper):
    """Records depth and poses on their way to the policy.

    Args:
        env: The environments, with same-step autoreset.
        depth_key: The depth image that is recorded.
        seen: The observations that the policy is shown: a blind one gets no depth.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], depth_key: str, seen: Sequence[str]) -> None:
        super().__init__(env)
        self.task: Any = env.unwrapped
        self.depth_key, self.seen = depth_key, tuple(seen)
        space = env.single_observation_space
        assert isinstance(space, spaces.Dict)
        self.single_observation_space = spaces.Dict({key: space[key] for key in self.seen})
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.finished: dict[int, Recording] = {}

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Starts a recording in every environment."""
        observations, infos = self.env.reset(**kwargs)
        self.finished = {}
        self.current = [Recording(self.task.layout(index)) for index in range(self.num_envs)]
        self._record(observations, range(self.num_envs))
        return self._shown(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Adds a frame to every recording; where an episode is over, the recording is finished and another starts."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.logical_or(terminated, truncated)
        self._record(observations, np.flatnonzero(~ended))
        if ended.any():
            infos = {**infos, "final_obs": infos["final_obs"].copy()}
        for index in np.flatnonzero(ended):
            recording, last = self.current[index], infos["final_info"]
            recording.depth.append(infos["final_obs"][index][self.depth_key][0])
            recording.poses.append(last["pose"][index])
            infos["final_obs"][index] = self._shown(infos["final_obs"][index])
            self.finished[int(last["layout_seed"][index])] = recording
            self.current[index] = Recording(self.task.layout(index))
        self._record(observations, np.flatnonzero(ended))
        return self._shown(observations), rewards, terminated, truncated, infos

    def _record(self, observations: Any, indices: Iterable[Any]) -> None:
        poses = self.task.poses
        for index in indices:
            self.current[index].depth.append(observations[self.depth_key][index, 0].copy())
            self.current[index].poses.append(poses[index].copy())

    def _shown(self, observations: Any) -> Any:
        return {key: observations[key] for key in self.seen}
