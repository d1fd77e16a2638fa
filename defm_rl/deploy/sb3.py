"""Stable-Baselines3's policies as exporters see them."""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
    StateDependentNoiseDistribution,
    TanhBijector,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, VecNormalize
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from defm_rl.deploy.graph import Bound, encode_exactly
from defm_rl.deploy.policies import Exportable, ExportError, about
from defm_rl.deploy.recording import play_vec_env
from defm_rl.depth import DepthFormat
from defm_rl.encoders import DepthEncoder
from defm_rl.gymnasium import EncodeDepth
from defm_rl.observations import ONLY_KEY, DepthLayout, Transform, depth_layouts
from defm_rl.sb3 import DefmExtractor, GymnasiumVecEnv, VecEncodeDepth


class Network(nn.Module):
    """A policy's way from observations, as it sees them, to its deterministic action before any bound.

    Args:
        policy: The policy; it is copied.

    Raises:
        ExportError: For a policy of an algorithm that is not known here.
    """

    def __init__(self, policy: Any) -> None:
        super().__init__()
        if type(policy).__name__.startswith("Maskable"):
            raise ExportError("MaskablePPO's actions depend on masks that no observation holds: it is not exported.")
        self.space = policy.observation_space
        self.normalizes_images = policy.normalize_images
        self.policy = _copied(policy).cpu()
        self.policy.set_training_mode(False)
        if not isinstance(policy, ActorCriticPolicy | SACPolicy | TD3Policy | DQNPolicy):
            raise ExportError(
                f"{type(policy).__name__} is not known: PPO, A2C, TRPO, RecurrentPPO, SAC, TD3, DDPG and DQN are "
                "exported."
            )

    def forward(self, observations: dict[str, Tensor], memory: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Observations by name, (B, ...), and (layers, B, size) memory, to the output and the next memory."""
        policy = self.policy
        if isinstance(policy, ActorCriticPolicy):
            features = self._features(policy.pi_features_extractor, observations)
            if isinstance(policy, RecurrentActorCriticPolicy):
                features, after = policy.lstm_actor(features[None], (memory[0], memory[1]))
                features, memory = features[0], list(after)
            return self._chosen(policy.action_net(policy.mlp_extractor.forward_actor(features))), memory
        if isinstance(policy, DQNPolicy):
            features = self._features(policy.q_net.features_extractor, observations)
            return policy.q_net.q_net(features).argmax(dim=1), memory
        features = self._features(policy.actor.features_extractor, observations)
        if isinstance(policy, SACPolicy):
            return policy.actor.mu(policy.actor.latent_pi(features)).tanh(), memory
        return policy.actor.mu(features), memory

    @property
    def memory(self) -> list[tuple[str, tuple[int, int]]]:
        """Names and shapes of what a recurrent policy remembers."""
        if not isinstance(self.policy, RecurrentActorCriticPolicy):
            return []
        lstm = self.policy.lstm_actor
        return [(name, (lstm.num_layers, lstm.hidden_size)) for name in ("h", "c")]

    @property
    def _distribution(self) -> Any:
        return self.policy.action_dist

    def _features(self, extractor: nn.Module, observations: dict[str, Tensor]) -> Tensor:
        given: Any = observations if isinstance(self.space, spaces.Dict) else next(iter(observations.values()))
        features: Tensor = extractor(preprocess_obs(given, self.space, normalize_images=self.normalizes_images))
        return features

    def _chosen(self, parameters: Tensor) -> Tensor:
        """A distribution's mode, from its parameters and without its checks, which `torch.export` does not take."""
        distribution = self._distribution
        if isinstance(distribution, CategoricalDistribution):
            return parameters.argmax(dim=1)
        if isinstance(distribution, MultiCategoricalDistribution):
            logits = parameters.split(list(distribution.action_dims), dim=1)
            return torch.stack([part.argmax(dim=1) for part in logits], dim=1)
        if isinstance(distribution, BernoulliDistribution):
            return (parameters > 0).long()
        if isinstance(distribution, StateDependentNoiseDistribution):
            return parameters if distribution.bijector is None else parameters.tanh()
        if isinstance(distribution, DiagGaussianDistribution):
            return parameters
        raise ExportError(f"{type(distribution).__name__} is not known: the mode of its actions cannot be exported.")


def _copied(policy: Any) -> Any:
    """A copy without the optimizer, and without what distributions keep of the last batch, which hangs on its graph."""
    memo: dict[int, Any] = {}
    for module in policy.modules():
        for value in vars(module).values():
            if isinstance(value, torch.optim.Optimizer):
                memo[id(value)] = None
            elif isinstance(value, Distribution):
                bare = copy.copy(value)
                plain = (bool, int, float, list, TanhBijector, type(None))
                vars(bare).update({name: None for name, kept in vars(value).items() if not isinstance(kept, plain)})
                memo[id(value)] = bare
    return copy.deepcopy(policy, memo)


class Acting:
    """A model as it is, on observations before anything is encoded.

    Args:
        model: The model.
        statistics: The `VecNormalize` around what it sees, if any.
        encode: What encodes before it, if anything does.
    """

    def __init__(self, model: BaseAlgorithm, statistics: VecNormalize | None, encode: Any) -> None:
        self._model, self._statistics, self._encode = model, statistics, encode
        self.reset()

    def reset(self) -> None:
        """Begins new episodes."""
        self._memory: Any = None

    def __call__(self, observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Actions of a batch of observations."""
        seen: Any = dict(observations)
        if self._encode is not None:
            seen = self._encode(seen)
        if not isinstance(self._model.observation_space, spaces.Dict):
            (seen,) = seen.values()
        if self._statistics is not None:
            seen = self._statistics.normalize_obs(seen)
        begins = np.full(len(next(iter(observations.values()))), self._memory is None)
        actions, self._memory = self._model.predict(seen, self._memory, begins, deterministic=True)
        if self._memory is None:
            self._memory = ()  # a policy without one
        return actions


def exportable(model: BaseAlgorithm, env: VecEnv | None = None) -> Exportable:
    """A model with what stands between its environment and it.

    Args:
        model: The model.
        env: Its environments, wrapped as in training. Default: those that it has.

    Raises:
        ExportError: Where a wrapper, the policy or a space is not known here.
    """
    env = env if env is not None else model.get_env()
    statistics, transform, inner = _chain(env)
    whole = describe(model, statistics, transform, inner.observation_space if inner is not None else None)
    if inner is not None:
        whole.record = lambda steps: play_vec_env(inner, whole.act, whole.reset, steps)
    return whole


def describe(
    model: BaseAlgorithm,
    statistics: VecNormalize | None,
    transform: Transform | None,
    space: spaces.Space[Any] | None = None,
) -> Exportable:
    """A model, its statistics, and what encodes before it, on observations of a space."""
    network = Network(model.policy)
    space = model.observation_space if space is None else space
    encoder, layouts = _encoder(network, transform, space)
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {ONLY_KEY: space}
    encode = encode_exactly(encoder, layouts) if encoder is not None and transform is not None else None
    acting = Acting(model, statistics, encode)
    actions = model.action_space
    bound = None
    if isinstance(actions, spaces.Box):
        bound = Bound(actions, scaled=bool(model.policy.squash_output))
    return Exportable(
        space=parts,
        action_space=actions,
        network=network,
        bound=bound,
        layouts=layouts,
        act=acting,
        reset=acting.reset,
        depth_format=DepthFormat() if encoder is None else encoder.depth_format,
        memory=network.memory,
        encoder=encoder if transform is not None else None,
        encoded=list(layouts) if transform is not None else (),
        statistics=None if statistics is None or not statistics.norm_obs else _statistics(statistics),
        weights=about(encoder),
    )


def _chain(env: VecEnv | None) -> tuple[VecNormalize | None, Transform | None, VecEnv | None]:
    """From the policy inwards: standardization, the encoding, and the environments whose observations a robot makes."""
    statistics: VecNormalize | None = None
    while env is not None:
        if isinstance(env, VecNormalize) and statistics is None:
            statistics = env
            env = env.venv
        elif isinstance(env, VecEncodeDepth):
            return statistics, env.transform, env.venv
        elif isinstance(env, VecMonitor):
            env = env.venv
        elif isinstance(env, GymnasiumVecEnv) and (encoding := _inside(env.env)) is not None:
            return statistics, encoding.transform, GymnasiumVecEnv(encoding.env)
        else:
            _refuse_encoding_behind(env)
            return statistics, None, env
    return statistics, None, None


def _refuse_encoding_behind(env: Any) -> None:
    """A wrapper between the encoding and the policy changes features in a way that is not known here."""
    inner = env
    while (inner := getattr(inner, "venv", None)) is not None:
        if isinstance(inner, VecEncodeDepth):
            raise ExportError(
                f"{type(env).__name__} stands between VecEncodeDepth and the policy, and cannot be exported: "
                "VecNormalize and VecMonitor alone can. Put it before the encoding, where the robot does its part."
            )


def _inside(env: Any) -> EncodeDepth | None:
    """The encoding among a vector environment's wrappers."""
    while env is not None and not isinstance(env, EncodeDepth):
        env = getattr(env, "env", None)
    return env


def _encoder(
    network: Network, transform: Transform | None, space: spaces.Space[Any]
) -> tuple[DepthEncoder | None, dict[str, DepthLayout]]:
    """The encoder before or inside the policy, and the depth that it or any other network sees."""
    if transform is not None:
        return transform.encoder, dict(transform.layouts)  # type: ignore[attr-defined]
    for module in network.modules():
        if isinstance(module, DefmExtractor):
            return module.encoder, dict(module.layouts)
    try:
        return None, depth_layouts(space)
    except ValueError:
        return None, {}  # a policy of vectors


def _statistics(statistics: VecNormalize) -> tuple[dict[str, tuple[Any, Any]], float]:
    rms: Any = statistics.obs_rms
    by_key = rms if isinstance(rms, dict) else {ONLY_KEY: rms}
    deviations = {key: (x.mean, np.sqrt(x.var + statistics.epsilon)) for key, x in by_key.items()}
    return deviations, float(statistics.clip_obs)
