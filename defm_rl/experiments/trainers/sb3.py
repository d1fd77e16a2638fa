"""Stable-Baselines3's PPO and SAC."""

import dataclasses
import pickle
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.save_util import load_from_zip_file, recursive_setattr
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv, VecNormalize
from torch import Tensor, nn

from defm_rl.adaptation import Standardization
from defm_rl.experiments.config import Config, ConfigError, EncoderConfig, PPOConfig, SACConfig
from defm_rl.experiments.environments import camera_keys, encoder_kwargs, policy_keys, trainable_stages, training_seed
from defm_rl.experiments.episodes import Observations, WatchEpisodes
from defm_rl.experiments.networks import DepthCnn
from defm_rl.experiments.progress import Curves, Progress
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers import shared
from defm_rl.observations import as_array
from defm_rl.sb3 import DefmExtractor, EncoderAdam, FeatureProjection, GymnasiumVecEnv, VecNormalizeFeatures

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {"ppo": PPO, "sac": SAC}
FEATURE_CLIP = 5.0  # standard deviations
_MODEL, _STATISTICS = "model.zip", "statistics.pkl"  # files of a checkpoint
_POLICY, _STATISTIC = "policy.", "statistics."  # names of tensors in a shared one begin with these
_MOMENTS = ("mean", "var", "count")


def training_keys(config: Config, checkpoint: Path | None = None) -> tuple[str, ...]:
    """What the environments give while the policy trains: what it sees."""
    return policy_keys(config.encoder, config.algo)


class SB3Trainer:
    """Trains with an algorithm of Stable-Baselines3.

    Args:
        config: The experiment.
        env: Environments as the policy sees them.
        checkpoint: A folder to go on from.
        steps: The steps behind it.
        changed: Keys that are set anew since; all take effect as they are.
    """

    def __init__(
        self,
        config: Config,
        env: WatchEpisodes,
        checkpoint: Path | None = None,
        steps: int = 0,
        changed: Collection[str] = (),
    ) -> None:
        vec_env = standardize(GymnasiumVecEnv(env), config.encoder, checkpoint and checkpoint / _STATISTICS)
        self.model = make_model(config, vec_env)
        if checkpoint is not None:
            _load_parameters(self.model, checkpoint / _MODEL)
            self.model.num_timesteps = steps
            if isinstance(self.model, SAC):
                self.model.learning_starts += steps  # the replay buffer is empty, as it was at first
        # Stable-Baselines3 has seeded them with the bare seed, which names a layout.
        vec_env.seed(training_seed(config.seed, steps))

    @property
    def steps(self) -> int:
        """Environment steps so far."""
        return self.model.num_timesteps

    @property
    def policy(self) -> "SB3Policy":
        """The policy as it is now."""
        return SB3Policy(self.model, self.model.get_vec_normalize_env())

    @property
    def origin(self) -> dict[str, Any]:
        """Nothing else."""
        return {}

    def learn(self, total_steps: int, progress: Progress) -> None:
        """Trains up to so many steps."""
        self.model.set_logger(Logger(None, [_ToCurves(progress.curves)]))
        left = total_steps - self.steps
        self.model.learn(left, _Watched(progress), reset_num_timesteps=self.steps == 0)

    def save(self, folder: Path) -> None:
        """Writes model.zip and statistics.pkl."""
        self.model.save(folder / _MODEL)
        statistics = self.model.get_vec_normalize_env()
        if statistics is not None:
            statistics.save(str(folder / _STATISTICS))


class SB3Policy:
    """A trained model with the feature statistics as they were at the end of training."""

    def __init__(self, model: BaseAlgorithm, statistics: VecNormalize | None) -> None:
        self.model, self.statistics = model, statistics

    def act(self, observations: Observations) -> NDArray[Any]:
        """Deterministic actions."""
        seen: Any = {key: as_array(part) for key, part in observations.items()}
        if self.statistics is not None:
            seen = self.statistics.normalize_obs(seen)
        return self.model.predict(seen, deterministic=True)[0]

    def reset(self, dones: NDArray[np.bool_] | None = None) -> None:
        """Nothing is remembered."""

    @property
    def network(self) -> nn.Module | None:
        """What makes features of depth inside the policy; None where they are made before it, or it sees no depth."""
        acting: Any = self.model.policy
        extractor = acting.actor.features_extractor if isinstance(self.model, SAC) else acting.pi_features_extractor
        if isinstance(extractor, DefmExtractor):
            return extractor.encoder
        if not isinstance(extractor, ScratchCnn):
            return None
        if len(extractor.cnns) > 1:
            raise ConfigError(
                f"The policy has a network for each of its cameras ({', '.join(extractor.cnns)}): one that they share "
                "can be adapted, as algo=rsl_ppo makes it, or any of a single camera."
            )
        (only,) = extractor.cnns.values()
        return next(only.children())

    def standardization(self, cameras: Sequence[str]) -> Standardization | None:
        """How the policy sees the features of its cameras; None where they come as they are."""
        statistics = self.statistics
        if statistics is None:
            return None
        known: Any = statistics.obs_rms
        mean, variance = (np.stack([getattr(known[key], name) for key in cameras]) for name in ("mean", "var"))
        deviation = np.sqrt(variance + statistics.epsilon)
        return Standardization(torch.from_numpy(mean), torch.from_numpy(deviation), statistics.clip_obs)


make_trainer = SB3Trainer


def _load_parameters(model: BaseAlgorithm, path: Path) -> None:
    """What a saved model has learned; its settings stay behind."""
    _, parameters, variables = load_from_zip_file(path, load_data=False, device=model.device)
    model.set_parameters(parameters, device=model.device)
    # These leave out what belongs to no network: SAC's entropy coefficient, where it is learned.
    for name, value in (variables or {}).items():
        recursive_setattr(model, f"{name}.data", value.data)  # the optimizer holds this very tensor


def load_policy(config: Config, checkpoint: Path) -> SB3Policy:
    """The policy of a checkpoint, or of one that `share_policy` made of it."""
    if (checkpoint / shared.FILE).exists():
        return _load_shared(config, checkpoint)
    model = ALGORITHMS[config.algo.name].load(checkpoint / _MODEL, device="auto")
    path = checkpoint / _STATISTICS
    return SB3Policy(model, pickle.loads(path.read_bytes()) if path.exists() else None)


def share_policy(config: Config, checkpoint: Path, folder: Path) -> None:
    """Writes what acts into a folder, without pickles."""
    policy = load_policy(config, checkpoint)
    tensors = {f"{_POLICY}{name}": value for name, value in policy.model.policy.state_dict().items()}
    statistics = policy.statistics
    before = policy.model.observation_space if statistics is None else statistics._space_before
    facts = {
        "observations": shared.describe_space(before, "observations", tensors),
        "actions": shared.describe_space(policy.model.action_space, "actions", tensors),
    }
    if statistics is not None:
        for key, known in statistics.obs_rms.items():
            for name in _MOMENTS:
                tensors[f"{_STATISTIC}{key}/{name}"] = torch.as_tensor(getattr(known, name))
    shared.write(folder, tensors, facts)


def _load_shared(config: Config, folder: Path) -> SB3Policy:
    """Builds the policy anew as for a training, and fills it."""
    tensors, facts = shared.read(folder)
    env: VectorEnv[Any, Any, Any] = VectorEnv()  # nothing is ever played in it: it has the spaces
    env.num_envs, env.metadata = config.env.num_envs, {"autoreset_mode": AutoresetMode.SAME_STEP}
    env.single_observation_space = shared.make_space(facts["observations"], "observations", tensors)
    env.single_action_space = shared.make_space(facts["actions"], "actions", tensors)
    env.observation_space, env.action_space = (
        batch_space(space, env.num_envs) for space in (env.single_observation_space, env.single_action_space)
    )
    algo = config.algo
    if isinstance(algo, SACConfig):
        algo = dataclasses.replace(algo, buffer_size=1)
    vec_env = standardize(GymnasiumVecEnv(env), config.encoder)
    model = make_model(dataclasses.replace(config, algo=algo), vec_env)
    state = {name.removeprefix(_POLICY): value for name, value in tensors.items() if name.startswith(_POLICY)}
    model.policy.load_state_dict(state)
    statistics = model.get_vec_normalize_env()
    if statistics is not None:
        for key, known in statistics.obs_rms.items():
            for name in _MOMENTS:
                setattr(known, name, tensors[f"{_STATISTIC}{key}/{name}"].numpy())
    return SB3Policy(model, statistics)


class _Watched(BaseCallback):
    """Tells how the training goes on."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def _on_step(self) -> bool:
        return self.progress.on_step(self.num_timesteps)

    def _on_rollout_end(self) -> None:
        self.progress.on_rollout(self.num_timesteps)
        schedule = self.model.learning_rate
        assert isinstance(schedule, LinearSchedule)
        schedule.remaining = self.progress.remaining(self.num_timesteps)


class _ToCurves(KVWriter):
    """Hands what Stable-Baselines3 logs on."""

    def __init__(self, curves: Curves) -> None:
        self.curves = curves

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Logs the numbers of one step."""
        self.curves.log({k: float(v) for k, v in key_values.items() if isinstance(v, int | float | np.number)}, step)

    def close(self) -> None:
        """Leaves the curves open: their owner closes them."""


class ScratchCnn(BaseFeaturesExtractor):
    """A CNN from scratch on each camera's depth, projected and put beside the vectors."""

    def __init__(self, observation_space: spaces.Dict, latent_dim: int, depth_keys: Sequence[str]) -> None:
        vectors = {key: space for key, space in observation_space.items() if key not in depth_keys}
        width = latent_dim * len(depth_keys) + sum(map(get_flattened_obs_dim, vectors.values()))
        super().__init__(observation_space, width)
        self._vectors = tuple(vectors)
        self.cnns = nn.ModuleDict()
        for key in depth_keys:
            cnn = DepthCnn(observation_space[key].shape[-2:])  # type: ignore[index]
            self.cnns[key] = nn.Sequential(cnn, nn.Linear(cnn.feature_dim, latent_dim), nn.Tanh())

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """{depth: (B, 1, H, W) metres, ..., state: (B, S), ...} to (B, latent_dim + ... + S + ...)."""
        seen = [cnn(observations[key][:, 0]) for key, cnn in self.cnns.items()]
        return torch.cat([*seen, *(observations[key] for key in self._vectors)], dim=1)


def standardize(env: VecEnv, config: EncoderConfig, statistics: Path | None = None) -> VecEnv:
    """Running standardization of encoded features: a network's channels differ in scale by orders of magnitude.

    Args:
        env: Environments whose depth is already encoded.
        config: Says whether to.
        statistics: A file of statistics to go on from; without it they start empty.
    """
    if config.kind != "defm" or config.trainable or not config.standardize:
        return env
    if statistics is not None:
        return VecNormalizeFeatures.load(str(statistics), env)
    return VecNormalizeFeatures(env, norm_obs_keys=list(camera_keys(config)), norm_reward=False, clip_obs=FEATURE_CLIP)


def extractor(config: EncoderConfig, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """The features extractor for a policy's `policy_kwargs`."""
    if config.kind == "cnn":
        return {
            "features_extractor_class": ScratchCnn,
            "features_extractor_kwargs": {"latent_dim": config.latent_dim, "depth_keys": list(camera_keys(config))},
        }
    if config.kind == "defm" and config.trainable:
        return {
            "features_extractor_class": DefmExtractor,
            "features_extractor_kwargs": {
                **encoder_kwargs(config),
                "image_size": image_size,
                "trainable": trainable_stages(config),
                "depth_keys": list(camera_keys(config)),
                "latent_dim": config.latent_dim,
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


class LinearSchedule:
    """A learning rate that falls linearly from `start` to `start * final_share`.

    Attributes:
        remaining: The share of the training, from 1 to 0, that is still to come, as `Progress` has it: unlike
            Stable-Baselines3, it knows the time limit too.
    """

    def __init__(self, start: float, final_share: float) -> None:
        self.start, self.final_share = start, final_share
        self.remaining = 1.0

    def __call__(self, remaining_steps: float) -> float:
        """The rate where `remaining_steps` of the training's steps, from 1 to 0, are still to come."""
        remaining = min(remaining_steps, self.remaining)
        return self.start * (self.final_share + (1.0 - self.final_share) * remaining)


def make_model(config: Config, env: VecEnv) -> BaseAlgorithm:
    """The algorithm with its policy, on environments that `standardize` made."""
    algo = config.algo
    assert isinstance(algo, PPOConfig | SACConfig)
    common: dict[str, Any] = {
        "learning_rate": LinearSchedule(algo.learning_rate, algo.final_learning_rate_share),
        "gamma": algo.gamma,
        "batch_size": algo.batch_size,
        "seed": config.seed,
        "device": "auto",
        "verbose": 0,
    }
    policy_kwargs = {
        "net_arch": list(algo.net_arch),
        **extractor(config.encoder, make_task(config.env).depth_size(config.encoder)),
    }
    if isinstance(algo, PPOConfig):
        return _make_ppo(algo, env, common, policy_kwargs)
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
