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
from defm_rl.experiments.config import Config
from defm_rl.experiments.environments import camera_keys, policy_keys
from defm_rl.experiments.episodes import Episode
from defm_rl.experiments.tasks import Ability, Map, make_task

FRAME_S = 0.1  # of simulated time between two frames at least: faster tasks are not filmed at every step
_SHRINK = 2  # pictures are kept at this fraction of what the task renders


@dataclass
class Recording:
    """What an animation shows of one episode: what the robot sees, beside a map or pictures of the scene."""

    layout: Layout | None = None  # of a task that has a map
    poses: list[NDArray[Any]] = field(default_factory=list)  # on that map; (3,): x, y in metres, yaw in radians
    pictures: list[NDArray[Any]] = field(default_factory=list)  # uint8 (H', W', 3), where the task has none
    depth: dict[str, list[NDArray[Any]]] = field(default_factory=dict)  # (H, W) metres, by camera
    outcome: Episode | None = None

    @property
    def frames(self) -> int:
        """How many pictures it has."""
        return len(next(iter(self.depth.values())))


class Camera(VectorWrapper):
    """Records what the robot sees and does on its way to the policy.

    Args:
        env: The environments, with same-step autoreset. Without a map, they are pictured where they render.
        world: Their map, where they have one.
        step_s: Seconds between two actions.
        cameras: The depth images that are recorded; of stacked frames the newest.
        seen: The observations that the policy is shown: a blind one gets no depth.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        world: Map | None,
        step_s: float,
        cameras: Sequence[str],
        seen: Sequence[str],
    ) -> None:
        super().__init__(env)
        self.world = world
        self.cameras, self.seen = tuple(cameras), tuple(seen)
        space = env.single_observation_space
        assert isinstance(space, spaces.Dict)
        self.single_observation_space = spaces.Dict({key: space[key] for key in self.seen})
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.finished: dict[int, Recording] = {}
        self._stride = max(1, round(FRAME_S / step_s))
        self._steps = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Starts a recording in every environment."""
        observations, infos = self.env.reset(**kwargs)
        self.finished, self._steps = {}, 0
        self.current = [self._begun(index) for index in range(self.num_envs)]
        self._record(observations, range(self.num_envs))
        return self._shown(observations), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Adds a frame to every recording; where an episode is over, the recording is finished and another starts."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._steps += 1
        ended = np.logical_or(terminated, truncated)
        if self._steps % self._stride == 0:
            self._record(observations, np.flatnonzero(~ended))
        if ended.any():
            infos = {**infos, "final_obs": infos["final_obs"].copy()}
        for index in np.flatnonzero(ended):
            self._finish(index, infos)
        self._record(observations, np.flatnonzero(ended))
        return self._shown(observations), rewards, terminated, truncated, infos

    def _begun(self, index: int) -> Recording:
        layout = self.world.layout(index) if self.world else None
        return Recording(layout, depth={key: [] for key in self.cameras})

    def _finish(self, index: Any, infos: dict[str, Any]) -> None:
        recording, last = self.current[index], infos["final_info"]
        for key, frames in recording.depth.items():
            frames.append(infos["final_obs"][index][key][-1])
        if self.world:
            recording.poses.append(last["pose"][index])
        elif recording.pictures:
            recording.pictures.append(recording.pictures[-1])  # the scene itself has begun anew
        infos["final_obs"][index] = self._shown(infos["final_obs"][index])
        self.finished[int(last["layout_seed"][index])] = recording
        self.current[index] = self._begun(index)

    def _record(self, observations: Any, indices: Iterable[Any]) -> None:
        indices = list(indices)
        if not indices:
            return
        poses = self.world.poses if self.world else None
        pictures: Any = None if self.world else self.env.render()
        for index in indices:
            for key, frames in self.current[index].depth.items():
                frames.append(observations[key][index, -1].copy())
            if poses is not None:
                self.current[index].poses.append(poses[index].copy())
            elif pictures is not None:
                self.current[index].pictures.append(pictures[index][::_SHRINK, ::_SHRINK].copy())

    def _shown(self, observations: Any) -> Any:
        return {key: observations[key] for key in self.seen}


def filmed(config: Config, layouts: Sequence[int], **kwargs: Any) -> Camera:
    """Environments of an experiment with a camera on them; one for each layout, unless `num_envs` says otherwise.

    Args:
        config: The experiment. Every camera that the policy sees is recorded. A blind one is filmed too: the task's
            first camera runs for the viewer alone.
        layouts: The layouts to play.
        **kwargs: For `Task.make`.

    Raises:
        ConfigError: Where the task cannot be filmed.
    """
    task = make_task(config.env)
    task.require(Ability.FILMS)
    seen = policy_keys(config.encoder, config.algo)
    settings = {"num_envs": len(layouts), **kwargs}
    cameras = camera_keys(config.encoder) or tuple(task.cameras)[:1]
    env = task.make((*cameras, *seen), layouts=layouts, pictures=True, **settings)
    return Camera(env, task.map(env), task.step_s or FRAME_S, cameras, seen)
