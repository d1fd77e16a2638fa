"""Stable-Baselines3's policies as exporters see them."""

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
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
from defm_rl.deploy.policies import Exportable, ExportError, Recording, about
from defm_rl.deploy.recording import play_vec_env
from defm_rl.deploy.wrappers import encoded_twice, encoding_in, normalized
from defm_rl.depth import DepthFormat
from defm_rl.encoders import DepthEncoder
from defm_rl.observations import ONLY_KEY, DepthLayout, Transform, depth_layouts
from defm_rl.sb3 import DefmExtractor, GymnasiumVecEnv, VecEncodeDepth, VecNormalizeDepth


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
        statistics: The `VecNormalize` around what it sees, from the innermost on.
        encode: What encodes before it, if anything does.
    """

    def __init__(self, model: BaseAlgorithm, statistics: Sequence[VecNormalize], encode: Any) -> None:
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
        for statistics in self._statistics:
            seen = statistics.normalize_obs(seen)
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
        whole.record = lambda steps: _played(inner, whole, steps)
    return whole


def _played(env: VecEnv, whole: Exportable, steps: int) -> Recording:
    with _frozen(env):
        return play_vec_env(env, whole.act, whole.reset, steps)


def describe(
    model: BaseAlgorithm,
    statistics: Sequence[VecNormalize],
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
        statistics=_statistics(statistics),
        weights=about(encoder),
    )


def _chain(env: VecEnv | None) -> tuple[list[VecNormalize], Transform | None, VecEnv | None]:
    """Standardizations from the innermost on, the encoding, and the environments whose observations a robot makes."""
    statistics: list[VecNormalize] = []
    transform: Transform | None = None
    while isinstance(env, VecNormalize | VecMonitor | VecEncodeDepth):
        if isinstance(env, VecNormalize):
            statistics.insert(0, env)  # an encoding in between leaves alone what one before it standardizes
        elif isinstance(env, VecEncodeDepth):
            if transform is not None:
                raise encoded_twice()
            transform = env.transform
        env = env.venv
    _refuse_behind(env)
    if isinstance(env, GymnasiumVecEnv) and (encoding := encoding_in(env.env)) is not None:
        if transform is not None:
            raise encoded_twice()
        transform, env = encoding.transform, GymnasiumVecEnv(encoding.env)
    return statistics, transform, env


def _refuse_behind(env: Any) -> None:
    """A wrapper that is not known here may change in any way what another one behind it would put into the graph."""
    for inner in _wrappers(env):
        if isinstance(inner, VecNormalizeDepth):
            raise normalized(inner)
        is_vector_env = isinstance(inner, GymnasiumVecEnv) and encoding_in(inner.env) is not None
        is_standardized = isinstance(inner, VecNormalize) and inner.norm_obs
        if inner is not env and (is_vector_env or is_standardized or isinstance(inner, VecEncodeDepth)):
            kind = "EncodeDepth" if is_vector_env else type(inner).__name__
            raise ExportError(
                f"{type(env).__name__} stands between {kind} and the policy, and cannot be exported: VecNormalize and "
                f"VecMonitor alone can. Put it before {kind}, where the robot does its part."
            )


def _wrappers(env: Any) -> Iterator[Any]:
    """Environments and all that they wrap."""
    while env is not None:
        yield env
        env = getattr(env, "venv", None)


@contextlib.contextmanager
def _frozen(env: VecEnv) -> Iterator[None]:
    """The statistics in an environment stay what they are."""
    learning = [inner for inner in _wrappers(env) if isinstance(inner, VecNormalize) and inner.training]
    for inner in learning:
        inner.training = False
    try:
        yield
    finally:
        for inner in learning:
            inner.training = True


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


def _statistics(normalizing: Sequence[VecNormalize]) -> list[tuple[str, Any, Any, float]]:
    return [
        (key, rms.mean, np.sqrt(rms.var + env.epsilon), float(env.clip_obs))
        for env in normalizing
        if env.norm_obs
        for key, rms in (env.obs_rms if isinstance(env.obs_rms, dict) else {ONLY_KEY: env.obs_rms}).items()
    ]
