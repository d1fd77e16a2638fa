"""Our tasks on MuJoCo: numbered layouts, ideal depth in metres, any simulated sensor."""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

import gymnasium
from gymnasium.vector import VectorEnv

import defm_rl.envs  # noqa: F401  registers the environments
from defm_rl.depth import ScaleWarning
from defm_rl.envs.core import Command, MujocoVectorEnv
from defm_rl.experiments.config import EncoderConfig, MujocoEnvConfig
from defm_rl.experiments.tasks.base import IDEAL, DepthCamera, Map, Task
from defm_rl.gymnasium import SimulateSensor
from defm_rl.sensors import make_sensor


class MujocoTask(Task[MujocoEnvConfig]):
    """One of `defm_rl.envs`."""

    @property
    def name(self) -> str:
        """The task and its level."""
        return f"{super().name}, {self.config.level}"

    @property
    def sensor(self) -> str:
        """The configuration's."""
        return self.config.sensor

    @property
    def renderer(self) -> str:
        """The configuration's."""
        return self.config.renderer

    @property
    def step_s(self) -> float:
        """The control step."""
        return float(self.config.task()["control_step_s"])  # every task of ours has it

    @property
    def cameras(self) -> Mapping[str, DepthCamera]:
        """All that the task has, whether they are observed or not."""
        height, width = self.config.task()["depth_size"]
        fovs = self._closed.horizontal_fov_deg
        return {key: DepthCamera(height, width, fov) for key, fov in fovs.items()}

    @property
    def entries(self) -> Mapping[str, Sequence[str]]:
        """What the environments say of themselves."""
        return self._closed.entries

    @property
    def commands(self) -> Sequence[Command]:
        """What the environments say of themselves."""
        return self._closed.commands

    @cached_property
    def _closed(self) -> MujocoVectorEnv:
        """One environment, which can be asked what it is, and no longer played."""
        env = MujocoTask(self.smallest()).make(("state",))
        env.close()
        return cast(MujocoVectorEnv, env.unwrapped)

    def depth_size(self, encoder: EncoderConfig) -> tuple[int, int]:
        """The configuration's: all cameras share it."""
        height, width = self.config.task()["depth_size"]
        return height, width

    def make(
        self,
        observations: Sequence[str],
        *,
        num_envs: int | None = None,
        seed: int = 0,
        layouts: Sequence[int] = (),
        sensor: str | None = None,
        renderer: str | None = None,
        pictures: bool = False,
    ) -> VectorEnv[Any, Any, Any]:
        """See `Task.make`."""
        sensor = self.sensor if sensor is None else sensor
        make_sensor(sensor)  # a wrong name is refused, by a policy that sees nothing too
        # Depth is in metres here, though the camera below a robot's belly may never see one.
        warnings.filterwarnings("ignore", category=ScaleWarning)
        env = gymnasium.make_vec(
            self.config.id,
            num_envs=num_envs or self.config.num_envs,
            **{**self.config.task(), "renderer": renderer or self.renderer},
            observations=tuple(dict.fromkeys(observations)),
            layout_seeds=list(layouts),
            render_mode="rgb_array" if pictures else None,
        )
        cameras = [key for key, box in env.single_observation_space.items() if len(box.shape) == 3]  # type: ignore[attr-defined]
        if sensor == IDEAL or not cameras:
            return env
        return SimulateSensor(env, sensor, depth_keys=cameras, step_s=self.step_s, seed=seed)

    def try_out(self, observations: Sequence[str]) -> None:
        """See `Task.try_out`."""
        MujocoTask(self.smallest()).make(observations).close()

    def smallest(self) -> MujocoEnvConfig:
        """One environment; OpenGL need not be there, nor be started."""
        renderer = "rays" if self.renderer in ("auto", "egl") else self.renderer
        return dataclasses.replace(self.config, num_envs=1, renderer=renderer)

    def map(self, env: VectorEnv[Any, Any, Any]) -> Map | None:
        """That of the navigation task."""
        task: Any = env.unwrapped
        return cast(Map, task) if task.has_map else None


make_task = MujocoTask
