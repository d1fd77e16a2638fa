"""Tasks of Isaac Lab; it is imported where an environment is made, and nowhere else."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments.config import Config, ConfigError, EncoderConfig, IsaaclabNavigationEnvConfig, RslRlConfig
from defm_rl.experiments.environments import camera_keys, encoder_kwargs, sees_features
from defm_rl.experiments.quiet import quiet
from defm_rl.experiments.tasks.base import IDEAL, Ability, DepthCamera, Task

_DEPTH = "depth"
_GROUPS = {"state": "policy", "privileged": "privileged", _DEPTH: _DEPTH}  # Isaac Lab's, by our names
_ONLY_MUJOCO = (
    "it is a task of Isaac Lab: simulated sensors, reports, comparisons of features and films are for the MuJoCo "
    "tasks. `defm-rl evaluate RUN episodes=500` evaluates it."
)


def installed() -> bool:
    """Whether Isaac Lab is; a folder that happens to be called so is not it."""
    return any(importlib.metadata.distributions(name="isaaclab"))


class IsaaclabNavigation(Task[IsaaclabNavigationEnvConfig]):
    """The navigation task, whose observation terms encode by themselves."""

    lacks = dict.fromkeys(Ability, _ONLY_MUJOCO)

    @property
    def step_s(self) -> float:
        """The control step."""
        return 0.2

    @property
    def cameras(self) -> Mapping[str, DepthCamera]:
        """The rover's one."""
        return {_DEPTH: DepthCamera(*self.config.depth_size)}

    def check(self, config: Config) -> None:
        """Raises a ConfigError where Isaac Lab is not there, or a setting is one that the task has not."""
        if not installed():
            raise ConfigError(
                f"{self.config.id} needs Isaac Lab, which is not installed: pip install isaaclab==3.0.0 "
                "'defm-rl[isaaclab]' into an environment of its own, or `make venv-isaaclab` in a checkout; see "
                "docs/isaaclab.md."
            )
        if not isinstance(config.algo, RslRlConfig):
            raise ConfigError(f"algo={config.algo.name} does not train Isaac Lab's tasks here: choose algo=rsl_ppo.")
        if camera_keys(config.encoder) not in ((), (_DEPTH,)):
            raise ConfigError(f"encoder.cameras={config.encoder.cameras}: the task has one camera, [{_DEPTH}].")
        for name, value in (
            ("max_episode_steps", self.config.max_episode_steps),
            ("num_envs", self.config.num_envs),
        ):
            if value < 1:
                raise ConfigError(f"env.{name} must be at least 1, got {value}.")
        if min(self.config.depth_size) < 1:
            raise ConfigError(
                f"env.depth_size must be at least 1 pixel high and wide, got {list(self.config.depth_size)}."
            )
        if config.evaluation.clips:
            raise ConfigError(
                f"evaluation.clips={config.evaluation.clips}: Isaac Lab's tasks are not filmed; set it to 0."
            )

    def make(self, observations: Sequence[str], **kwargs: Any) -> VectorEnv[Any, Any, Any]:
        """See `Task.make`; depth in metres."""
        return self._make(observations, None, **kwargs)

    def make_encoded(
        self, observations: Sequence[str], settings: EncoderConfig, encoder: DepthEncoder | None, **kwargs: Any
    ) -> VectorEnv[Any, Any, Any]:
        """See `Task.make_encoded`: observation terms load the encoder themselves."""
        return self._make(observations, encoder_kwargs(settings) if sees_features(settings) else None, **kwargs)

    def _make(
        self,
        observations: Sequence[str],
        features: Mapping[str, Any] | None,
        *,
        num_envs: int | None = None,
        seed: int = 0,
        layouts: Sequence[int] = (),
        sensor: str | None = None,
        renderer: str | None = None,
        pictures: bool = False,
    ) -> VectorEnv[Any, Any, Any]:
        """See `Task.make`; `features` are the settings of the frozen encoder whose features stand for depth."""
        if sensor not in (None, IDEAL):
            self.require(Ability.SENSORS)
        if pictures:
            self.require(Ability.FILMS)
        from defm_rl.envs.isaaclab.navigation import FeaturesCfg, ImageCfg, NavigationEnvCfg
        from defm_rl.envs.isaaclab.vector_env import IsaacLabVectorEnv
        from defm_rl.isaaclab import defm_features

        unknown = [name for name in observations if name not in _GROUPS]
        if unknown:
            raise ConfigError(f"{self.config.id} does not give {unknown[0]!r}: there is {', '.join(_GROUPS)}.")
        cfg = NavigationEnvCfg()
        cfg.seed = seed
        cfg.scene.num_envs = num_envs or self.config.num_envs
        cfg.sim.device = _device(self.config.device)
        # Isaac Lab rounds the number of steps up: half a step less leaves no room for what floats add.
        cfg.episode_length_s = (self.config.max_episode_steps - 0.5) * cfg.sim.dt * cfg.decimation
        cfg.events.layout.params = {"numbers": list(layouts)}
        if "privileged" not in observations:
            cfg.observations.privileged = None
        if _DEPTH not in observations:
            cfg.observations.depth = cfg.scene.camera = None
        else:
            cfg.scene.camera.height, cfg.scene.camera.width = self.config.depth_size
            if features is None:
                cfg.observations.depth = ImageCfg()
            else:
                cfg.observations.depth = FeaturesCfg(features=defm_features("camera", **features))
        groups = {name: _GROUPS[name] for name in observations}
        with quiet():
            return IsaacLabVectorEnv(gymnasium.make(self.config.id, cfg=cfg), groups, compact=(_DEPTH,))


make_task = IsaaclabNavigation


def _device(name: str) -> str:
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return name
