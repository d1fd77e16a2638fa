"""Tasks of Isaac Lab as an experiment's environments; Isaac Lab is imported where one is made, and nowhere else."""

import importlib.metadata
from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import torch
from gymnasium.vector import VectorEnv

from defm_rl.experiments.config import Config, ConfigError, IsaaclabNavigationEnvConfig, RslRlConfig
from defm_rl.experiments.quiet import quiet

_DEPTH = "depth"
_GROUPS = {"state": "policy", "privileged": "privileged", _DEPTH: _DEPTH}  # Isaac Lab's, by our names


def installed() -> bool:
    """Whether Isaac Lab is; a folder that happens to be called so is not it."""
    return any(importlib.metadata.distributions(name="isaaclab"))


def check(config: Config) -> None:
    """Raises a ConfigError where a task of Isaac Lab is asked for that cannot be, or with settings that it has not."""
    if not isinstance(config.env, IsaaclabNavigationEnvConfig):
        return
    if not installed():
        raise ConfigError(
            f"{config.env.id} needs Isaac Lab, which is not installed: pip install isaaclab==3.0.0 'defm-rl[isaaclab]' "
            "into an environment of its own, or `make venv-isaaclab` in a checkout; see docs/isaaclab.md."
        )
    if not isinstance(config.algo, RslRlConfig):
        raise ConfigError(f"algo={config.algo.name} does not train Isaac Lab's tasks here: choose algo=rsl_ppo.")
    if config.encoder.kind != "blind" and list(config.encoder.cameras) != [_DEPTH]:
        raise ConfigError(f"encoder.cameras={config.encoder.cameras}: the task has one camera, [{_DEPTH}].")
    for name, value in (("max_episode_steps", config.env.max_episode_steps), ("num_envs", config.env.num_envs)):
        if value < 1:
            raise ConfigError(f"env.{name} must be at least 1, got {value}.")
    if min(config.env.depth_size) < 1:
        raise ConfigError(f"env.depth_size must be at least 1 pixel high and wide, got {list(config.env.depth_size)}.")
    if config.evaluation.clips:
        raise ConfigError(f"evaluation.clips={config.evaluation.clips}: Isaac Lab's tasks are not filmed; set it to 0.")


def make_vec_env(
    config: IsaaclabNavigationEnvConfig,
    observations: Sequence[str],
    features: Mapping[str, Any] | None,
    *,
    seed: int,
    num_envs: int | None = None,
    layout_seeds: Sequence[int] = (),
) -> VectorEnv[Any, Any, Any]:
    """The environments of a configuration.

    Args:
        config: The environments.
        observations: Which observations they give: "state", "privileged", "depth".
        features: Settings of the frozen encoder whose features stand for depth; None for metres.
        seed: Of all that is random.
        num_envs: How many, in the place of the configuration's number.
        layout_seeds: Numbers of the worlds to play first.

    Raises:
        ConfigError: For an observation that the task does not give.
        ValueError: For a setting that Isaac Lab or the encoder refuses.
    """
    from defm_rl.envs.isaaclab.navigation import FeaturesCfg, ImageCfg, NavigationEnvCfg
    from defm_rl.envs.isaaclab.vector_env import IsaacLabVectorEnv
    from defm_rl.isaaclab import defm_features

    unknown = [name for name in observations if name not in _GROUPS]
    if unknown:
        raise ConfigError(f"{config.id} does not give {unknown[0]!r}: there is {', '.join(_GROUPS)}.")
    cfg = NavigationEnvCfg()
    cfg.seed = seed
    cfg.scene.num_envs = num_envs or config.num_envs
    cfg.sim.device = _device(config.device)
    # Isaac Lab rounds the number of steps up: half a step less leaves no room for what floats add.
    cfg.episode_length_s = (config.max_episode_steps - 0.5) * cfg.sim.dt * cfg.decimation
    cfg.events.layout.params = {"numbers": list(layout_seeds)}
    if "privileged" not in observations:
        cfg.observations.privileged = None
    if _DEPTH not in observations:
        cfg.observations.depth = cfg.scene.camera = None
    else:
        cfg.scene.camera.height, cfg.scene.camera.width = config.depth_size
        if features is None:
            cfg.observations.depth = ImageCfg()
        else:
            cfg.observations.depth = FeaturesCfg(features=defm_features("camera", **features))
    groups = {name: _GROUPS[name] for name in observations}
    with quiet():
        return IsaacLabVectorEnv(gymnasium.make(config.id, cfg=cfg), groups, compact=(_DEPTH,))


def _device(name: str) -> str:
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    return name
