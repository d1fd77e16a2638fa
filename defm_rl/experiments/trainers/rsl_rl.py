"""RSL-RL's PPO, and its distillation of a teacher into a student."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rsl_rl.runners import DistillationRunner, OnPolicyRunner
from tensordict import TensorDict
from torch import nn

from defm_rl.adaptation import Standardization
from defm_rl.experiments.config import Config, ConfigError, DistillationConfig, RslPPOConfig, RslRlConfig
from defm_rl.experiments.environments import (
    camera_keys,
    encoder_kwargs,
    policy_keys,
    sees_features,
    trainable_stages,
    training_seed,
)
from defm_rl.experiments.episodes import Observations, WatchEpisodes
from defm_rl.experiments.progress import Progress
from defm_rl.experiments.quiet import quiet
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers import shared
from defm_rl.rsl_rl import DefmModel, RslRlVecEnv

_MODEL = "model.pt"  # file of a checkpoint
_ALGORITHM_FIELDS = (
    *("gamma", "lam", "num_mini_batches", "clip_param", "entropy_coef", "value_loss_coef", "use_clipped_value_loss"),
    *("schedule", "desired_kl", "num_learning_epochs", "max_grad_norm", "learning_rate"),
    *("gradient_length", "loss_type"),
)


@dataclass(frozen=True)
class Teacher:
    """Whom a student learns from.

    Attributes:
        run: The folder of its run.
        sha256: Of its checkpoint.
        observations: What it knows.
        model: Its model's settings.
        state: Its weights.
    """

    run: str
    sha256: str
    observations: list[str]
    model: dict[str, Any]
    state: dict[str, Any]

    @classmethod
    def of_run(cls, config: Config) -> "Teacher":
        """The teacher that a student's configuration names.

        Raises:
            ConfigError: Where none is named, or it is no run, of another task, or not one that can teach.
        """
        if config.teacher is None:
            raise ConfigError("A student needs a teacher: teacher=RUN, the folder of a run with algo=rsl_ppo.")
        run = Run(Path(config.teacher))
        its = run.config()
        if its.env.id != config.env.id:
            raise ConfigError(
                f"teacher={run.folder} was trained on {its.env.id}, the student is to learn {config.env.id}."
            )
        if not isinstance(its.algo, RslPPOConfig) or its.encoder.kind != "blind":
            raise ConfigError(
                f"teacher={run.folder} was trained with algo={its.algo.name} encoder={its.encoder.kind}: a teacher is "
                "a run with algo=rsl_ppo encoder=blind, which is told what a student has to see."
            )
        state = _load(run.checkpoint)["actor_state_dict"]
        file = next(path for name in (shared.FILE, _MODEL) if (path := run.checkpoint / name).exists())
        sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
        return cls(str(run.folder), sha256, list(policy_keys(its.encoder, its.algo)), actor_settings(its), state)

    @classmethod
    def of_checkpoint(cls, checkpoint: Path) -> "Teacher":
        """The teacher of a student that was saved: its folder is not needed any more."""
        saved = _load(checkpoint)
        return cls(**saved["teacher"], state=saved["teacher_state_dict"])

    def described(self) -> dict[str, Any]:
        """All but the weights, for a checkpoint."""
        return {"run": self.run, "sha256": self.sha256, "observations": self.observations, "model": self.model}


def training_keys(config: Config, checkpoint: Path | None = None) -> tuple[str, ...]:
    """What the environments give while the policy trains: what it sees, and what its critic or teacher knows."""
    others: list[str] = []
    if isinstance(config.algo, RslPPOConfig):
        others = list(config.algo.critic_observations or ())
    if isinstance(config.algo, DistillationConfig):
        others = _teacher(config, checkpoint).observations
    return tuple(dict.fromkeys([*policy_keys(config.encoder, config.algo), *others]))


class RslRlTrainer:
    """Trains with an algorithm of RSL-RL.

    Args:
        config: The experiment.
        env: Environments as the policy sees them, with what its critic or teacher knows.
        checkpoint: A folder to go on from.
        steps: The steps behind it.
        changed: Keys that are set anew since. An adaptive learning rate is the checkpoint's unless it is among them.
    """

    def __init__(
        self,
        config: Config,
        env: WatchEpisodes,
        checkpoint: Path | None = None,
        steps: int = 0,
        changed: Collection[str] = (),
    ) -> None:
        assert isinstance(config.algo, RslRlConfig)
        self.config, self.algo, self.steps = config, config.algo, steps
        self.teacher = _teacher(config, checkpoint) if isinstance(config.algo, DistillationConfig) else None
        device = "cuda" if torch.cuda.is_available() else "cpu"
        torch.manual_seed(config.seed + steps)
        self.env = RslRlVecEnv(env, device=device, seed=training_seed(config.seed, steps))
        runner = OnPolicyRunner if self.teacher is None else DistillationRunner
        with quiet():
            self.runner = runner(self.env, runner_settings(config, self.teacher), device=device)
        if checkpoint is not None:
            self.runner.alg.load(_load(checkpoint), None, True)
            if "algo.learning_rate" in changed:
                self._apply_learning_rate(self.algo.learning_rate)
        elif self.teacher is not None:
            self._take_over(self.teacher)

    @property
    def policy(self) -> "RslRlPolicy":
        """The policy as it is now."""
        return RslRlPolicy(self.runner.alg.get_policy(), policy_keys(self.config.encoder, self.algo))

    @property
    def origin(self) -> dict[str, Any]:
        """The teacher of a student."""
        return {} if self.teacher is None else {"teacher": {"run": self.teacher.run, "sha256": self.teacher.sha256}}

    def learn(self, total_steps: int, progress: Progress) -> None:
        """Trains up to so many steps."""
        watched = _Watched(self, progress)
        self.runner.logger = watched
        while self.steps < total_steps and watched.in_time:
            if not (isinstance(self.algo, RslPPOConfig) and self.algo.schedule == "adaptive"):
                self._set_learning_rate(progress.remaining(self.steps))
            self.runner.learn(1)
            progress.on_rollout(self.steps)

    def save(self, folder: Path) -> None:
        """Writes model.pt."""
        observations = self.env.get_observations()
        shapes = {key: [list(x.shape[1:]), str(x.dtype).removeprefix("torch.")] for key, x in observations.items()}
        saved = {**self.runner.alg.save(), "iter": 0, "observations": shapes, "actions": self.env.num_actions}
        if self.teacher is not None:
            saved["teacher"] = self.teacher.described()
        torch.save(saved, folder / _MODEL)

    def _take_over(self, teacher: Teacher) -> None:
        try:
            self.runner.alg.load({"actor_state_dict": teacher.state}, None, True)
        except RuntimeError as error:
            raise ConfigError(
                f"teacher={teacher.run} does not fit this task's observations or actions: {str(error).splitlines()[-1]}"
            ) from error

    def _set_learning_rate(self, remaining: float) -> None:
        """Lets it fall linearly, `remaining` of the training, from 1 to 0, being still to come."""
        share = self.algo.final_learning_rate_share
        self._apply_learning_rate(self.algo.learning_rate * (share + (1 - share) * remaining))

    def _apply_learning_rate(self, rate: float) -> None:
        self.runner.alg.learning_rate = rate
        for group in self.runner.alg.optimizer.param_groups:
            group["lr"] = rate


class RslRlPolicy:
    """A trained model that acts without exploring; tasks clip its actions to their bounds."""

    def __init__(self, model: Any, keys: tuple[str, ...]) -> None:
        self.model, self.keys = model.eval(), keys
        self._device = next(model.parameters()).device

    def act(self, observations: Observations) -> NDArray[Any]:
        """Deterministic actions."""
        groups = {key: torch.as_tensor(observations[key], device=self._device) for key in self.keys}
        batch = len(next(iter(groups.values())))
        with torch.inference_mode():
            actions: NDArray[Any] = self.model(TensorDict(groups, batch_size=[batch])).cpu().numpy()
        return actions

    def reset(self, dones: NDArray[np.bool_] | None = None) -> None:
        """Forgets the episodes that are over, or all."""
        with torch.inference_mode():
            self.model.reset(None if dones is None else torch.as_tensor(dones, device=self._device))

    @property
    def network(self) -> nn.Module | None:
        """What makes features of depth inside the policy; None where they are made before it, or it sees no depth."""
        network: nn.Module | None = self.model.encoder
        return network

    def standardization(self, cameras: Sequence[str]) -> Standardization | None:
        """How the policy sees the features of its cameras; None where they come as they are."""
        norms = self.model.feature_norms
        if not set(cameras) <= set(norms):
            return None
        mean = torch.stack([norms[key].mean for key in cameras])
        deviation = torch.stack([norms[key].std + norms[key].eps for key in cameras])
        return Standardization(mean, deviation, norms[cameras[0]].clip)


make_trainer = RslRlTrainer


def load_policy(config: Config, checkpoint: Path) -> RslRlPolicy:
    """The policy of a checkpoint, or of one that `share_policy` made of it."""
    assert isinstance(config.algo, RslRlConfig)
    saved = _load(checkpoint)
    observations = {
        key: torch.zeros(1, *shape, dtype=getattr(torch, dtype))
        for key, (shape, dtype) in saved["observations"].items()
    }
    keys = policy_keys(config.encoder, config.algo)
    settings = {name: value for name, value in actor_settings(config).items() if name != "class_name"}
    model = DefmModel(
        TensorDict(observations, batch_size=[1]), {"actor": list(keys)}, "actor", saved["actions"], **settings
    )
    model.load_state_dict(_acting(saved))
    return RslRlPolicy(model.to("cuda" if torch.cuda.is_available() else "cpu"), keys)


def share_policy(config: Config, checkpoint: Path, folder: Path) -> None:
    """Writes what acts into a folder, without pickles."""
    saved = _load(checkpoint)
    shared.write(folder, _acting(saved), {name: saved[name] for name in ("observations", "actions")})


def runner_settings(config: Config, teacher: Teacher | None = None) -> dict[str, Any]:
    """The configuration as RSL-RL's runners take it."""
    algo = config.algo
    assert isinstance(algo, RslRlConfig)
    seen = list(policy_keys(config.encoder, algo))
    algorithm = {name: getattr(algo, name) for name in _ALGORITHM_FIELDS if hasattr(algo, name)}
    fine_tuned = config.encoder.kind == "defm" and bool(config.encoder.trainable)
    if fine_tuned:
        algorithm["encoder_lr_scale"] = config.encoder.learning_rate_scale
    common = {"num_steps_per_env": algo.num_steps_per_env, "save_interval": 1, "algorithm": algorithm}
    prefix = "defm_rl.rsl_rl:Encoder" if fine_tuned else ""
    if teacher is not None:
        algorithm["class_name"] = f"{prefix}Distillation"
        groups = {"student": seen, "teacher": teacher.observations}
        return {**common, "obs_groups": groups, "student": actor_settings(config), "teacher": teacher.model}
    assert isinstance(algo, RslPPOConfig)
    known = list(algo.critic_observations or seen)
    algorithm["class_name"] = f"{prefix}PPO"
    algorithm["share_cnn_encoders"] = _inside(config) and bool(set(known) & set(camera_keys(config.encoder)))
    groups = {"actor": seen, "critic": known}
    return {**common, "obs_groups": groups, "actor": actor_settings(config), "critic": _model_settings(config)}


def actor_settings(config: Config) -> dict[str, Any]:
    """The settings of the model that acts: `_model_settings`, and how it explores."""
    assert isinstance(config.algo, RslRlConfig)
    noise = {"class_name": "GaussianDistribution", "init_std": config.algo.init_std}
    scale = config.algo.initial_output_scale
    return {**_model_settings(config), "distribution_cfg": noise, "initial_output_scale": scale}


def _model_settings(config: Config) -> dict[str, Any]:
    """The settings of a `DefmModel`."""
    algo, encoder = config.algo, config.encoder
    assert isinstance(algo, RslRlConfig)
    cameras = list(camera_keys(encoder))
    return {
        "class_name": "defm_rl.rsl_rl:DefmModel",
        "hidden_dims": list(algo.net_arch),
        "activation": algo.activation,
        "obs_normalization": algo.obs_normalization,
        "encoder": _encoder_settings(config),
        "depth_groups": cameras if _inside(config) else [],
        "feature_groups": [] if _inside(config) else cameras,
        "latent_dim": encoder.latent_dim,
        "feature_normalization": encoder.standardize,
        "rnn_type": algo.rnn_type,
        "rnn_hidden_dim": algo.rnn_hidden_dim,
        "rnn_num_layers": algo.rnn_num_layers,
    }


def _encoder_settings(config: Config) -> dict[str, Any] | None:
    """Of the encoder inside the model, where it is there to be trained."""
    if not _inside(config):
        return None
    size = make_task(config.env).depth_size(config.encoder)
    if config.encoder.kind == "cnn":
        return {"class_name": "defm_rl.experiments.networks:DepthCnn", "image_size": size and list(size)}
    settings = encoder_kwargs(config.encoder)
    return {
        **settings,
        "image_size": size and list(size),
        "grid": list(settings["grid"]),
        "trainable": trainable_stages(config.encoder),
    }


def _inside(config: Config) -> bool:
    return bool(camera_keys(config.encoder)) and not sees_features(config.encoder)


def _teacher(config: Config, checkpoint: Path | None) -> Teacher:
    return Teacher.of_run(config) if checkpoint is None else Teacher.of_checkpoint(checkpoint)


def _acting(saved: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights of the model that acts, a student where it has learned from a teacher."""
    state: dict[str, torch.Tensor] = saved.get("actor_state_dict") or saved["student_state_dict"]
    return state


def _load(checkpoint: Path) -> dict[str, Any]:
    if (checkpoint / shared.FILE).exists():
        tensors, facts = shared.read(checkpoint)
        return {"actor_state_dict": tensors, **facts}
    saved: dict[str, Any] = torch.load(checkpoint / _MODEL, map_location="cpu", weights_only=True)
    return saved


class _Watched:
    """In the place of RSL-RL's logger, which would print a page after each iteration; tells how it goes on."""

    writer = None  # without one, RSL-RL leaves saving to others

    def __init__(self, trainer: RslRlTrainer, progress: Progress) -> None:
        self._trainer, self._progress = trainer, progress
        self.in_time = True

    def init_logging_writer(self) -> None:
        """Nothing to open."""

    def process_env_step(self, *_: Any) -> None:
        """Counts the steps of all environments."""
        self._trainer.steps += self._trainer.env.num_envs
        self.in_time = self._progress.on_step(self._trainer.steps)

    def log(self, *, loss_dict: Mapping[str, float], learning_rate: float, action_std: Any, **_: Any) -> None:
        """Hands an iteration's losses on."""
        losses = {f"train/{name}_loss": float(value) for name, value in loss_dict.items()}
        figures = {**losses, "train/learning_rate": learning_rate, "train/action_std": action_std.mean().item()}
        self._progress.curves.log(figures, self._trainer.steps)
