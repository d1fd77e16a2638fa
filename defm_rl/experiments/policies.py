"""From a configuration to environments and a policy: where the encoder stands is decided here."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

import defm_rl.envs  # noqa: F401  registers the environments
from defm_rl.depth import normalize_channels
from defm_rl.encoders import DepthEncoder, WeightsUnavailableError
from defm_rl.experiments.config import AlgoConfig, Config, EncoderConfig, EnvConfig, PPOConfig, SACConfig
from defm_rl.experiments.progress import LinearSchedule
from defm_rl.sb3 import (
    DefmExtractor,
    EncoderAdam,
    FeatureProjection,
    GymnasiumVecEnv,
    VecEncodeDepth,
    VecNormalizeFeatures,
)

_logger = logging.getLogger(__name__)

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "sac": SAC}
FEATURE_CLIP = 5.0  # standard deviations


class ScratchCnn(BaseFeaturesExtractor):
    """Three convolutions on the normalized depth (layout of Mnih et al. 2015), projected and put beside the state."""

    def __init__(self, observation_space: gymnasium.spaces.Dict, latent_dim: int) -> None:
        depth, state = observation_space["depth"], observation_space["state"]
        assert depth.shape is not None
        assert state.shape is not None
        super().__init__(observation_space, latent_dim + state.shape[0])
        convolutions = nn.Sequential(
            *(nn.Conv2d(3, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
        )
        with torch.no_grad():
            width = convolutions(torch.zeros(1, 3, *depth.shape[-2:])).shape[1]
        self.cnn = nn.Sequential(convolutions, nn.Linear(width, latent_dim), nn.Tanh())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """{"depth": (B, 1, H, W) metres, "state": (B, S)} to (B, latent_dim + S)."""
        channels = normalize_channels(observations["depth"][:, 0].float())
        return torch.cat([self.cnn(channels), observations["state"]], dim=1)


def make_encoder(config: EncoderConfig, image_size: tuple[int, int]) -> DepthEncoder:
    """The DeFM encoder that a configuration names, frozen."""
    return DepthEncoder(**encoder_kwargs(config, image_size))


def encoder_kwargs(config: EncoderConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    """The configuration as `DepthEncoder` takes it, `trainable` left out."""
    return {
        "encoder": config.name,
        "weights": config.weights,
        "features": list(config.features),
        "pool": config.pool,
        "grid": config.grid,
        "bifpn": config.bifpn,
        "image_size": image_size,
    }


def trainable_stages(config: EncoderConfig) -> str | list[str]:
    """`trainable` as `DepthEncoder` takes it."""
    return "all" if list(config.trainable) == ["all"] else list(config.trainable) or "none"


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


def make_vec_env(
    config: EnvConfig, *, blind: bool = False, num_envs: int | None = None, **kwargs: Any
) -> GymnasiumVecEnv:
    """The environments of a configuration as an SB3 VecEnv; a blind policy's render nothing."""
    return GymnasiumVecEnv(
        gymnasium.make_vec(
            config.id,
            num_envs=num_envs or config.num_envs,
            **config.task(),
            observations=("state",) if blind else ("depth", "state"),
            **kwargs,
        )
    )


def observe(env: VecEnv, config: EncoderConfig, encoder: DepthEncoder | None) -> VecEnv:
    """Puts what is computed once per frame around the environments: a frozen encoder, and nothing else."""
    return VecEncodeDepth(env, encoder) if encoder is not None and not config.trainable else env


def standardize(env: VecEnv, config: EncoderConfig, statistics: Path | None = None) -> VecEnv:
    """Running standardization of encoded features: a network's channels differ in scale by orders of magnitude.

    Args:
        env: Environments whose "depth" is already encoded.
        config: Says whether to.
        statistics: A file of statistics to go on from; without it they start empty.
    """
    if config.kind != "defm" or config.trainable or not config.standardize:
        return env
    if statistics is not None:
        return VecNormalizeFeatures.load(str(statistics), env)
    return VecNormalizeFeatures(env, norm_obs_keys=["depth"], norm_reward=False, clip_obs=FEATURE_CLIP)


def watch(env: VecEnv, config: EncoderConfig, encoder: DepthEncoder | None, statistics: Path | None) -> VecEnv:
    """Environments as a trained policy sees them: encoded, with the statistics as they were at the end of training."""
    env = standardize(observe(env, config, encoder), config, statistics)
    if isinstance(env, VecNormalizeFeatures):
        env.training = False
    return env


def extractor(config: EncoderConfig, image_size: tuple[int, int]) -> dict[str, Any]:
    """The features extractor for a policy's `policy_kwargs`."""
    if config.kind == "cnn":
        return {
            "features_extractor_class": ScratchCnn,
            "features_extractor_kwargs": {"latent_dim": config.latent_dim},
        }
    if config.kind == "defm" and config.trainable:
        return {
            "features_extractor_class": DefmExtractor,
            "features_extractor_kwargs": {
                **encoder_kwargs(config, image_size),
                "trainable": trainable_stages(config),
            },
            "optimizer_class": EncoderAdam,
            "optimizer_kwargs": {"encoder_lr_scale": config.learning_rate_scale},
        }
    if config.kind == "defm":
        return {
            "features_extractor_class": FeatureProjection,
            "features_extractor_kwargs": {"latent_dim": config.latent_dim},
        }
    return {}


def make_model(config: Config, env: VecEnv) -> BaseAlgorithm:
    """The algorithm with its policy, on environments made by `observe` and `standardize`."""
    algo = config.algo
    common: dict[str, Any] = {
        "learning_rate": LinearSchedule(algo.learning_rate, algo.final_learning_rate_share),
        "gamma": algo.gamma,
        "batch_size": algo.batch_size,
        "seed": config.seed,
        "device": "auto",
        "verbose": 0,
    }
    policy_kwargs = {"net_arch": list(algo.net_arch), **extractor(config.encoder, config.env.depth_size)}
    if isinstance(algo, PPOConfig):
        return _make_ppo(algo, env, common, policy_kwargs)
    assert isinstance(algo, SACConfig)
    return _make_sac(algo, env, common, policy_kwargs)


def _make_ppo(algo: PPOConfig, env: VecEnv, common: dict[str, Any], policy_kwargs: dict[str, Any]) -> PPO:
    return PPO(
        "MultiInputPolicy",
        env,
        n_steps=algo.n_steps,
        n_epochs=algo.n_epochs,
        gae_lambda=algo.gae_lambda,
        clip_range=algo.clip_range,
        ent_coef=algo.ent_coef,
        vf_coef=algo.vf_coef,
        max_grad_norm=algo.max_grad_norm,
        target_kl=algo.target_kl,
        policy_kwargs={**policy_kwargs, "log_std_init": algo.log_std_init},
        **common,
    )


def _make_sac(algo: SACConfig, env: VecEnv, common: dict[str, Any], policy_kwargs: dict[str, Any]) -> SAC:
    return SAC(
        "MultiInputPolicy",
        env,
        buffer_size=algo.buffer_size,
        learning_starts=algo.learning_starts,
        tau=algo.tau,
        train_freq=algo.train_freq,
        gradient_steps=algo.gradient_steps,
        policy_kwargs=policy_kwargs,
        **common,
    )
