"""Rolling out a trained policy on numbered layouts, with or without a recording."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvObs, VecEnvStepReturn

from defm_rl.envs.layouts import Layout
from defm_rl.sb3 import GymnasiumVecEnv


@dataclass(frozen=True)
class Episode:
    """How one episode went."""

    layout: int  # its number
    success: bool
    spl: float  # success weighted by path length (Anderson et al. 2018, arXiv 1807.06757)
    collision: bool
    steps: int
    reward: float


@dataclass
class Recording:
    """What an animation shows of one episode."""

    layout: Layout
    poses: list[np.ndarray] = field(default_factory=list)  # (3,): x, y in metres, yaw in radians
    depth: list[np.ndarray] = field(default_factory=list)  # (H, W) metres
    outcome: Episode | None = None


def run_episodes(model: BaseAlgorithm, env: VecEnv, layouts: Sequence[int]) -> Iterator[Episode]:
    """Runs the deterministic policy until every layout's episode is over.

    Args:
        model: The policy.
        env: Environments that were made with `layout_seeds=layouts`: they take them in order as they become free.
        layouts: The layouts to report.

    Yields:
        One episode per layout, in the order in which they end.
    """
    waiting = set(layouts)
    observations = env.reset()
    steps, rewards = np.zeros(env.num_envs, int), np.zeros(env.num_envs)
    while waiting:
        actions, _ = model.predict(observations, deterministic=True)  # type: ignore[arg-type]
        observations, reward, dones, infos = env.step(actions)
        steps += 1
        rewards += reward
        for index in np.flatnonzero(dones):
            episode = _episode(infos[index], int(steps[index]), float(rewards[index]))
            steps[index], rewards[index] = 0, 0.0
            if episode.layout in waiting:
                waiting.remove(episode.layout)
                yield episode


class Camera(VecEnvWrapper):
    """Records depth and poses on their way to the policy; a blind policy is not shown the depth.

    Args:
        env: The environments, rendering depth.
        blind: Whether the policy goes without depth.
    """

    def __init__(self, env: GymnasiumVecEnv, *, blind: bool) -> None:
        self.task: Any = env.env.unwrapped
        self.blind = blind
        space = env.observation_space
        assert isinstance(space, spaces.Dict)
        seen = spaces.Dict({key: part for key, part in space.items() if not (blind and key == "depth")})
        super().__init__(env, observation_space=seen)

    def reset(self) -> VecEnvObs:
        """Starts a recording in every environment."""
        observations: Any = self.venv.reset()
        self.finished: dict[int, Recording] = {}
        self.current = [Recording(self.task.layout(index)) for index in range(self.num_envs)]
        self._record(observations, range(self.num_envs))
        return self._shown(observations)

    def step_wait(self) -> VecEnvStepReturn:
        """Adds a frame to every recording; where an episode is over, the recording is finished and another starts."""
        observations, rewards, dones, infos = self.venv.step_wait()
        self._record(observations, np.flatnonzero(~dones))
        for index in np.flatnonzero(dones):
            recording, info = self.current[index], infos[index]
            recording.depth.append(info["terminal_observation"]["depth"][0])
            recording.poses.append(np.asarray(info["pose"]))
            info["terminal_observation"] = self._shown(info["terminal_observation"])
            self.finished[int(info["layout_seed"])] = recording
            self.current[index] = Recording(self.task.layout(index))
        self._record(observations, np.flatnonzero(dones))
        return self._shown(observations), rewards, dones, infos

    def _record(self, observations: Any, indices: Iterable[int]) -> None:
        poses = self.task.poses
        for index in indices:
            self.current[index].depth.append(observations["depth"][index, 0].copy())
            self.current[index].poses.append(poses[index].copy())

    def _shown(self, observations: Any) -> Any:
        return {key: part for key, part in observations.items() if not (self.blind and key == "depth")}


def _episode(info: dict[str, Any], steps: int, reward: float) -> Episode:
    return Episode(
        layout=int(info["layout_seed"]),
        success=bool(info["success"]),
        spl=float(info["spl"]),
        collision=bool(info["collision"]),
        steps=steps,
        reward=reward,
    )
