"""What a policy sees of its environments: which observations, and through which encoder; the numbers of layouts."""

import logging
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv

from defm_rl.encoders import DepthEncoder, WeightsUnavailableError
from defm_rl.envs.core import DRAWN_LAYOUTS
from defm_rl.experiments.config import AlgoConfig, ConfigError, EncoderConfig
from defm_rl.gymnasium import EncodeDepth

_logger = logging.getLogger(__name__)


def make_encoder(config: EncoderConfig, image_size: tuple[int, int] | None) -> DepthEncoder:
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


def settle_weights(config: EncoderConfig, image_size: tuple[int, int] | None) -> DepthEncoder | None:
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
    if config.kind == "blind":
        return ()
    return ("depth",) if config.cameras is None else tuple(config.cameras)


def policy_keys(encoder: EncoderConfig, algo: AlgoConfig) -> tuple[str, ...]:
    """All observations that the policy sees: depth, and vectors such as the state."""
    return (*camera_keys(encoder), *(("state",) if algo.observations is None else algo.observations))


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
