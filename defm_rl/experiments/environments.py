"""From a configuration to environments: the sensor, and the encoder where nothing of it is trained."""

import logging
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

import defm_rl.envs  # noqa: F401  registers the environments
from defm_rl.encoders import DepthEncoder, WeightsUnavailableError
from defm_rl.envs.core import DRAWN_LAYOUTS
from defm_rl.experiments import isaaclab
from defm_rl.experiments.config import (
    AlgoConfig,
    Config,
    ConfigError,
    EncoderConfig,
    EnvConfig,
    IsaaclabNavigationEnvConfig,
    MujocoEnvConfig,
)
from defm_rl.gymnasium import EncodeDepth, SimulateSensor
from defm_rl.sensors import make_sensor

_logger = logging.getLogger(__name__)

IDEAL = "ideal"


def make_encoder(config: EncoderConfig, image_size: tuple[int, int]) -> DepthEncoder:
    """The DeFM encoder that a configuration names, frozen."""
    return DepthEncoder(**encoder_kwargs(config), image_size=image_size)


def encoder_kwargs(config: EncoderConfig) -> dict[str, Any]:
    """The configuration as `DepthEncoder` takes it, `trainable` left out."""
    return {
        "encoder": config.name,
        "weights": config.weights,
        "features": list(config.features),
        "pool": config.pool,
        "grid": config.grid,
        "bifpn": config.bifpn,
        "precision": config.precision,
        "compile": config.compile,
    }


def trainable_stages(config: EncoderConfig) -> str | list[str]:
    """What of the encoder is trained, as `DepthEncoder` takes it."""
    return "all" if list(config.trainable) == ["all"] else list(config.trainable) or "none"


def sees_features(config: EncoderConfig) -> bool:
    """Whether the policy is given what a frozen encoder makes of the depth, and not the depth itself."""
    return config.kind == "defm" and not config.trainable


def sensor_of(config: EnvConfig) -> str:
    """The sensor that policies see with; Isaac Lab's cameras are ideal."""
    return config.sensor if isinstance(config, MujocoEnvConfig) else IDEAL


def of_mujoco(config: EnvConfig) -> MujocoEnvConfig:
    """The configuration, of what only the MuJoCo tasks can do.

    Raises:
        ConfigError: Where it is a task of Isaac Lab.
    """
    if not isinstance(config, MujocoEnvConfig):
        raise ConfigError(
            f"{config.id} is a task of Isaac Lab: simulated sensors, reports, comparisons of features and films are "
            "for the MuJoCo tasks. `defm-rl evaluate RUN episodes=500` evaluates it."
        )
    return config


def settle_weights(config: EncoderConfig, image_size: tuple[int, int]) -> DepthEncoder | None:
    """Loads the encoder's weights, or random ones where that is allowed and the Hub is out of reach.

    `config.weights` then says what was taken, so that everything that follows takes the same.

    Returns:
        The encoder, frozen; None where the policy has no DeFM encoder.

    Raises:
        WeightsUnavailableError: Where the weights cannot be had and the configuration allows no other.
    """
    if config.kind != "defm":
        return None
    try:
        return make_encoder(config, image_size)
    except WeightsUnavailableError as error:
        if config.fallback != "random":
            raise
        reason = type(error.__cause__ or error).__name__
        _logger.warning(
            "The Hugging Face Hub cannot be reached (%s): %s goes on with RANDOM weights, not the published ones.",
            reason,
            config.name,
        )
        config.weights = "random"
        return make_encoder(config, image_size)


def camera_keys(config: EncoderConfig) -> tuple[str, ...]:
    """The depth images that the policy sees; none where it is blind."""
    return () if config.kind == "blind" else tuple(config.cameras)


def policy_keys(encoder: EncoderConfig, algo: AlgoConfig) -> tuple[str, ...]:
    """All observations that the policy sees: depth, and vectors such as the state."""
    return (*camera_keys(encoder), *algo.observations)


def make_vec_env(
    config: EnvConfig,
    observations: Sequence[str],
    *,
    sensor: str | None = None,
    seed: int = 0,
    num_envs: int | None = None,
    renderer: str | None = None,
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """The environments of a MuJoCo task's configuration, their depth as its sensor measures it.

    Args:
        config: The environments.
        observations: Which observations they give, see `policy_keys`; what is left out costs nothing.
        sensor: A sensor to see with in the place of the configuration's, see `defm_rl.sensors.SENSORS`.
        seed: Of the sensor's random numbers.
        num_envs: How many, in the place of the configuration's number.
        renderer: What draws depth, in the place of the configuration's.
        **kwargs: For the task, such as `layout_seeds` and `render_mode`.

    Raises:
        ConfigError: For a task of Isaac Lab.
        ValueError: For a sensor that does not exist, or a setting that the task refuses.
    """
    config = of_mujoco(config)
    sensor = config.sensor if sensor is None else sensor
    make_sensor(sensor)  # a wrong name is refused, by a policy that sees nothing too
    env = gymnasium.make_vec(
        config.id,
        num_envs=num_envs or config.num_envs,
        **{**config.task(), "renderer": renderer or config.renderer},
        observations=tuple(dict.fromkeys(observations)),
        **kwargs,
    )
    cameras = [key for key, box in env.single_observation_space.items() if len(box.shape) == 3]  # type: ignore[attr-defined]
    if sensor == IDEAL or not cameras:
        return env
    step_s: float = env.unwrapped.config.control_step_s  # type: ignore[attr-defined]  # every task of ours has it
    return SimulateSensor(env, sensor, depth_keys=cameras, step_s=step_s, seed=seed)


def make_seen_env(
    config: Config,
    observations: Sequence[str],
    encoder: DepthEncoder | None,
    *,
    sensor: str | None = None,
    renderer: str | None = None,
    **kwargs: Any,
) -> VectorEnv[Any, Any, Any]:
    """The environments of an experiment as its policy sees them: through a frozen encoder, each frame encoded once.

    Args:
        config: The experiment.
        observations: Which observations they give, see `policy_keys`.
        encoder: The experiment's encoder, where it has one; Isaac Lab's observation terms load it themselves.
        sensor: See `make_vec_env`; of a MuJoCo task.
        renderer: See `make_vec_env`; of a MuJoCo task.
        **kwargs: `seed`, `num_envs`, `layout_seeds`.

    Raises:
        ConfigError, ValueError: For a setting that the task refuses.
    """
    if isinstance(config.env, IsaaclabNavigationEnvConfig):
        features = encoder_kwargs(config.encoder) if sees_features(config.encoder) else None
        return isaaclab.make_vec_env(config.env, observations, features, **kwargs)
    env = make_vec_env(config.env, observations, sensor=sensor, renderer=renderer, **kwargs)
    return encode_once(env, config.encoder, encoder)


def training_seed(seed: int, steps: int = 0) -> int:
    """The seed of a training's environments that go on after so many steps: a number as the tasks draw them.

    A seed is also the first episode's layout, and evaluations name theirs below those that are drawn.
    """
    return int(np.random.default_rng((seed, steps)).integers(*DRAWN_LAYOUTS))


def named_layouts(first: int, count: int) -> range:
    """The layouts of an evaluation.

    Raises:
        ConfigError: Where training could draw some of them.
    """
    if first < 0 or first + count > DRAWN_LAYOUTS[0]:
        raise ConfigError(f"first_layout must lie from 0 to {DRAWN_LAYOUTS[0] - count}, got {first}: others are drawn.")
    return range(first, first + count)


def encode_once(
    env: VectorEnv[Any, Any, Any], config: EncoderConfig, encoder: DepthEncoder | None
) -> VectorEnv[Any, Any, Any]:
    """Puts what is computed once per frame around the environments: a frozen encoder, and nothing else."""
    if encoder is None or not sees_features(config):
        return env
    return EncodeDepth(env, encoder, depth_keys=camera_keys(config))
