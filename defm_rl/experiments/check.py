"""What can be said against an experiment before anything is downloaded, written or begun."""

from collections.abc import Sequence
from pathlib import Path

import torch
from omegaconf import MISSING

from defm_rl.encoders import DepthEncoder, find_card
from defm_rl.encoders.registry import is_published
from defm_rl.encoders.weights import WeightsInfo, find_weights
from defm_rl.encoders.zoo import blank_encoder
from defm_rl.experiments.config import Config, ConfigError, EncoderConfig, group_options, option_of, refused_settings
from defm_rl.experiments.environments import encoder_kwargs, named_layouts, sees_features, trainable_stages
from defm_rl.experiments.networks import DepthCnn
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers import training_keys
from defm_rl.names import hint

_LEAST = {
    **dict.fromkeys(("env.num_envs", "checkpoint_every", "evaluation.episodes"), 1),
    **dict.fromkeys(("algo.total_steps", "algo.batch_size", "algo.buffer_size", "algo.n_steps", "algo.n_epochs"), 1),
    **dict.fromkeys(("algo.num_steps_per_env", "algo.num_learning_epochs", "algo.num_mini_batches"), 1),
    **dict.fromkeys(("seed", "evaluation.clips", "evaluation.first_layout"), 0),
}
_SEEDS = 2**32  # NumPy's
_MODES = ("online", "offline", "shared", "disabled")  # of Weights & Biases


def check_settings(configs: Sequence[Config]) -> None:
    """Refuses what training would refuse later, in any of a sweep's configurations.

    Raises:
        ConfigError: With the key, and what it can be.
    """
    for config in configs:
        _check_values(config)
    for config in {repr((config.env, config.encoder, config.algo)): config for config in configs}.values():
        task = make_task(config.env)
        task.check(config)
        with refused_settings("env"):
            task.settle(config)
        keys = training_keys(config, Run(Path(config.resume)).checkpoint if config.resume else None)
        with refused_settings("env"):
            task.try_out(keys)
        with refused_settings("encoder"):
            _check_encoder(config.encoder, task.depth_size(config.encoder))


def _check_values(config: Config) -> None:
    for key, least in _LEAST.items():
        group, _, name = key.rpartition(".")
        value = getattr(getattr(config, group) if group else config, name, least)
        if value < least:
            raise ConfigError(f"{key} must be at least {least}, got {value}.")
    if config.seed >= _SEEDS:
        raise ConfigError(f"seed must be less than 2^32, got {config.seed}.")
    named_layouts(config.evaluation.first_layout, config.evaluation.episodes)
    if config.logger.mode not in (None, *_MODES):
        mode = config.logger.mode
        raise ConfigError(f"logger.mode={mode} is no mode of Weights & Biases{hint(mode, _MODES)}.")
    own_id = type(config.env).id
    if own_id not in (MISSING, config.env.id):
        ours = ", ".join(f"env={option}" for option in group_options("env"))
        raise ConfigError(
            f"env.id={config.env.id}: env={option_of(type(config.env))} is {own_id}. For another environment: "
            f"env=gymnasium env.id={config.env.id}; there is {ours}."
        )


def _check_encoder(config: EncoderConfig, image_size: tuple[int, int] | None) -> None:
    """Makes the encoder without weights, and without memory for them."""
    if config.kind == "cnn" and image_size is not None:
        DepthCnn(image_size)
    if config.kind != "defm":
        return
    try:
        find_card(config.name)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"encoder.name={config.name}: {error}") from error
    if config.weights not in ("hub", "random") and not Path(config.weights).expanduser().is_file():
        find_weights(config.name, config.weights)
    network = blank_encoder(config.name)
    with torch.device("meta" if is_published(config.name) else "cpu"):
        network.provenance = WeightsInfo(config.name, "random", "")
        encoder = DepthEncoder(**encoder_kwargs(config), image_size=image_size, network=network)
        encoder.unfreeze(trainable_stages(config))
    if sees_features(config) and not encoder.frozen:
        raise ConfigError(
            f"encoder.pool={config.pool} is learned, and nothing of an encoder that encodes once per frame can be "
            "trained: choose another pool, or encoder.trainable=all."
        )
