"""Tasks of simulators with managers, whose observation terms simulate sensors and encode by themselves."""

import importlib.metadata
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from gymnasium.vector import VectorEnv

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments.config import (
    Config,
    ConfigError,
    EncoderConfig,
    IsaaclabNavigationEnvConfig,
    MjlabEnvConfig,
)
from defm_rl.experiments.environments import camera_keys, encoder_kwargs, sees_features
from defm_rl.experiments.quiet import quiet
from defm_rl.experiments.tasks.base import Ability, DepthCamera, Task

Managed = TypeVar("Managed", IsaaclabNavigationEnvConfig, MjlabEnvConfig)

DEPTH = "depth"


class ManagedTask(Task[Managed]):
    """A task with one depth camera."""

    package: ClassVar[str]
    """The simulator's, on PyPI."""

    install: ClassVar[str]
    """How to install it."""

    groups: ClassVar[Mapping[str, str]]
    """The simulator's observation groups, by our names."""

    lacks: Mapping[Ability, str] = {
        Ability.FILMS: "its simulator gives no pictures here, so that it cannot be filmed (evaluation.clips=0).",
        Ability.EXPORT: "what stands where in its state is its simulator's to say: use RSL-RL's own exporters.",
    }

    @classmethod
    def installed(cls) -> bool:
        """Whether the simulator is; a folder that happens to be called so is not it."""
        return any(importlib.metadata.distributions(name=cls.package))

    @property
    def sensor(self) -> str:
        """The configuration's."""
        return self.config.sensor

    @property
    def cameras(self) -> Mapping[str, DepthCamera]:
        """The one."""
        return {DEPTH: DepthCamera(*self.config.depth_size)}

    def check(self, config: Config) -> None:
        """Raises a ConfigError where the simulator is not there, or a setting is one that the task has not."""
        self._require_simulator()
        if not config.algo.takes_tensors:
            raise ConfigError(f"algo={config.algo.name} does not train this simulator's tasks: choose algo=rsl_ppo.")
        if camera_keys(config.encoder) not in ((), (DEPTH,)):
            raise ConfigError(f"encoder.cameras={config.encoder.cameras}: the task has one camera, [{DEPTH}].")
        super().check(config)
        if self.config.max_episode_steps < 1:
            raise ConfigError(f"env.max_episode_steps must be at least 1, got {self.config.max_episode_steps}.")
        if min(self.config.depth_size) < 1:
            raise ConfigError(
                f"env.depth_size must be at least 1 pixel high and wide, got {list(self.config.depth_size)}."
            )
        if config.evaluation.clips:
            raise ConfigError(f"evaluation.clips={config.evaluation.clips}: {self.lacks[Ability.FILMS]}")

    def _require_simulator(self) -> None:
        if not self.installed():
            raise ConfigError(f"{self.config.id} needs {self.install}")

    def make(self, observations: Sequence[str], **kwargs: Any) -> VectorEnv[Any, Any, Any]:
        """See `Task.make`; depth in metres."""
        return self._make(observations, None, **kwargs)

    def make_encoded(
        self, observations: Sequence[str], settings: EncoderConfig, encoder: DepthEncoder | None, **kwargs: Any
    ) -> VectorEnv[Any, Any, Any]:
        """See `Task.make_encoded`: observation terms load the encoder themselves."""
        if not sees_features(settings):
            return self._make(observations, None, **kwargs)
        features = encoder_kwargs(settings)
        if encoder is not None and encoder.provenance.path is not None:
            features["weights"] = str(encoder.provenance.path)  # adapted ones, where they are adapted
        return self._make(observations, features, **kwargs)

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
        sensor = self._asked_for(sensor, renderer, pictures)
        unknown = [name for name in observations if name not in self.groups]
        if unknown:
            raise ConfigError(f"{self.config.id} does not give {unknown[0]!r}: there is {', '.join(self.groups)}.")
        self._require_simulator()
        with quiet():
            return self._build(
                observations,
                num_envs=num_envs or self.config.num_envs,
                seed=seed,
                layouts=layouts,
                sight={"sensor_model": sensor, "sensor_seed": seed},
                features=features,
            )

    @abstractmethod
    def _build(
        self,
        observations: Sequence[str],
        *,
        num_envs: int,
        seed: int,
        layouts: Sequence[int],
        sight: Mapping[str, Any],
        features: Mapping[str, Any] | None,
    ) -> VectorEnv[Any, Any, Any]:
        """The environments.

        Args:
            observations: Which observations they give.
            num_envs: How many.
            seed: Of the simulation.
            layouts: Numbers of the episodes to play first.
            sight: Which sensor the depth term simulates.
            features: The encoder's settings; None for metres.
        """

    @property
    def device(self) -> str:
        """Of the simulation."""
        if self.config.device == "auto":
            return "cuda:0" if torch.cuda.is_available() else "cpu"
        return self.config.device
