"""How much memory a training will take, before it is run."""

import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import environments
from defm_rl.experiments.config import (
    Config,
    ConfigError,
    PPOConfig,
    SACConfig,
    refused_settings,
)
from defm_rl.experiments.episodes import WatchEpisodes
from defm_rl.experiments.evaluation import settle_threads, threads_put_back
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers.sb3 import SB3Trainer, training_keys
from defm_rl.memory import Ledger, estimate_encoding, nbytes

_IMAGE_BYTES = 3 * 4  # a pixel of three channels in float32
_ADAM_NUMBERS = 2  # that it keeps for each trained one

Observations = dict[str, Tensor]


@dataclasses.dataclass(frozen=True)
class TrainingMemory:
    """Memory of a training in bytes; what the simulator, the libraries and the interpreter take is not in it.

    Attributes:
        device: "cpu" or "cuda", where the networks are.
        encoder_weights: Of the encoder around the environments; 0 where there is none.
        policy_weights: Of the policy's networks, an encoder inside them and target networks included.
        optimizer: What Adam keeps.
        encoding: Peak of encoding one vectorized step where the encoder is frozen, the depth included.
        acting: Peak of the policy in one vectorized step, its observations included.
        update: Peak of one gradient step on a minibatch, which is included, as are the gradients.
        transitions: That the buffer holds.
        transition: Bytes of one of them.
        transition_with_images: Bytes that it would have with three-channel float32 images in the place of what the
            policy sees.
        buffer: The rollout or replay buffer, on the host.
        reordering: What the rollout buffer takes more while it is flattened before an update.
    """

    device: str
    encoder_weights: int
    policy_weights: int
    optimizer: int
    encoding: int
    acting: int
    update: int
    transitions: int
    transition: int
    transition_with_images: int
    buffer: int
    reordering: int

    @property
    def kept(self) -> int:
        """Weights and what the optimizer keeps, all the time."""
        return self.encoder_weights + self.policy_weights + self.optimizer

    @property
    def device_total(self) -> int:
        """At the worst moment, where the networks are."""
        return self.kept + max(self.encoding, self.acting, self.update)

    @property
    def host_total(self) -> int:
        """At the worst moment, in the computer's memory."""
        if self.device != "cpu":
            return self.buffer + self.reordering
        return self.buffer + self.kept + max(self.encoding, self.acting, self.update, self.reordering)


def estimate_training(config: Config, device: str | None = None) -> TrainingMemory:
    """The memory that a training will take, without taking it.

    The environments, the policy and its buffer are made as for training, but for one environment and a few
    transitions, and with random weights.

    Args:
        config: The experiment; `algo` is PPO or SAC of Stable-Baselines3.
        device: "cpu" or "cuda". Default: CUDA if there is any.

    Raises:
        ConfigError: For another algorithm, or a setting that training would refuse.
    """
    algo = config.algo
    if not isinstance(algo, PPOConfig | SACConfig):
        raise ConfigError(f"algo={algo.name}: memory is estimated for algo=ppo and algo=sac only.")
    make_task(config.env).settle(config)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    with threads_put_back():
        model, encoder = _small_training(config)
        return _estimate(config, model, encoder, device)


def _small_training(config: Config) -> tuple[BaseAlgorithm, DepthEncoder | None]:
    """The training's model, and the encoder around its environments, with as little data as can be."""
    few: dict[str, Any] = {"n_steps": 2, "batch_size": 2} if isinstance(config.algo, PPOConfig) else {"buffer_size": 2}
    task = make_task(make_task(config.env).smallest())
    small = dataclasses.replace(
        config,
        env=task.config,
        encoder=dataclasses.replace(config.encoder, weights="random"),
        algo=dataclasses.replace(config.algo, **few),
    )
    with refused_settings():
        encoder = environments.settle_weights(small.encoder, task.depth_size(small.encoder))
        env = task.make_encoded(training_keys(small), small.encoder, encoder, seed=small.seed)
    settle_threads(small)
    try:
        with refused_settings():
            model = SB3Trainer(small, WatchEpisodes(env)).model
    finally:
        env.close()
    return model, None if small.encoder.trainable else encoder


def _estimate(config: Config, model: BaseAlgorithm, encoder: DepthEncoder | None, device: str) -> TrainingMemory:
    policy = model.policy
    if device != model.device.type:
        policy = copy.deepcopy(policy).to("cpu" if device == "cpu" else "meta")
    cameras = environments.camera_keys(config.encoder)
    images = [make_task(config.env).cameras[key] for key in cameras]
    encoder_weights = encoding = 0
    if encoder is not None:
        steps = [
            estimate_encoding(encoder, config.env.num_envs * count, *size, device=device)
            for size, count in Counter((image.height, image.width) for image in images).items()
        ]
        encoder_weights = steps[0].weights
        encoding = sum(step.inputs for step in steps) + max(step.peak for step in steps)

    algo = config.algo
    assert isinstance(algo, PPOConfig | SACConfig)
    act, update = (_act_ppo, _update_ppo) if isinstance(model, PPO) else (_act_sac, _update_sac)
    transitions, transition, seen, largest = _stored(model, config)
    copies = 1 if isinstance(model, PPO) else 2  # of the observations in a transition
    return TrainingMemory(
        device=device,
        encoder_weights=encoder_weights,
        policy_weights=sum(map(nbytes, (*policy.parameters(), *policy.buffers()))),
        optimizer=_ADAM_NUMBERS * sum(map(nbytes, _optimized(policy))),
        encoding=encoding,
        acting=_peak(act, policy, config.env.num_envs, 1),
        update=_peak(update, policy, algo.batch_size, copies),
        transitions=transitions,
        transition=transition,
        transition_with_images=transition
        - seen
        + copies * sum(image.height * image.width for image in images) * _IMAGE_BYTES,
        buffer=transitions * transition,
        reordering=transitions * largest if isinstance(model, PPO) else 0,
    )


def _stored(model: BaseAlgorithm, config: Config) -> tuple[int, int, int, int]:
    """How many transitions the buffer will hold; bytes of one, of depth or features in it, of its largest array."""
    algo, num_envs = config.algo, config.env.num_envs
    if isinstance(model, PPO):
        assert isinstance(algo, PPOConfig)
        buffer: Any = model.rollout_buffer
        transitions = algo.n_steps * num_envs
    else:
        assert isinstance(model, SAC)
        assert isinstance(algo, SACConfig)
        buffer = model.replay_buffer
        transitions = max(algo.buffer_size // num_envs, 1) * num_envs
    held = buffer.buffer_size * buffer.n_envs
    arrays = [(key, array.nbytes // held) for key, array in buffer_arrays(buffer)]
    cameras = environments.camera_keys(config.encoder)
    sizes = [size for _, size in arrays]
    return transitions, sum(sizes), sum(size for key, size in arrays if key in cameras), max(sizes)


def buffer_arrays(buffer: Any) -> Iterator[tuple[str, np.ndarray]]:
    """All arrays of one of Stable-Baselines3's buffers by name, those of observations by their keys."""
    for name, value in vars(buffer).items():
        for key, array in value.items() if isinstance(value, dict) else [(name, value)]:
            if isinstance(array, np.ndarray):
                yield key, array


def _optimized(policy: BasePolicy) -> list[Tensor]:
    """What the policy's optimizers train."""
    optimizers: list[Any] = [module.optimizer for module in policy.modules() if hasattr(module, "optimizer")]
    return [parameter for optimizer in optimizers for group in optimizer.param_groups for parameter in group["params"]]


def _peak(
    function: Callable[[Any, list[Observations], Tensor], None], policy: BasePolicy, batch: int, copies: int
) -> int:
    """Peak of a function of a policy, so many batches of observations, and actions; these are included."""
    space: Any = policy.observation_space
    ledger, device = Ledger(), next(policy.parameters()).device
    observations = [
        {
            key: ledger.tensor((batch, *box.shape), torch.from_numpy(np.empty(0, box.dtype)).dtype, device=device)
            for key, box in space.items()
        }
        for _ in range(copies)
    ]
    actions = ledger.tensor((batch, *(policy.action_space.shape or ())), device=device)
    with ledger:
        function(policy, observations, actions)
    return ledger.peak + sum(nbytes(x) for x in (actions, *(x for seen in observations for x in seen.values())))


def _act_ppo(policy: Any, observations: list[Observations], actions: Tensor) -> None:
    with torch.no_grad():
        policy(observations[0])


def _act_sac(policy: Any, observations: list[Observations], actions: Tensor) -> None:
    with torch.no_grad():
        policy.actor(observations[0])


def _update_ppo(policy: Any, observations: list[Observations], actions: Tensor) -> None:
    """The passes of PPO's gradient step."""
    values, log_prob, entropy = policy.evaluate_actions(observations[0], actions)
    _gradients(values.mean() + log_prob.mean() + entropy.mean(), policy)


def _update_sac(policy: Any, observations: list[Observations], actions: Tensor) -> None:
    """The passes of SAC's gradient step in their order: the actor's graph waits while the critic learns."""
    now, after = observations
    chosen, log_prob = policy.actor.action_log_prob(now)
    with torch.no_grad():
        policy.critic_target(after, policy.actor.action_log_prob(after)[0])
    kept = _gradients(torch.cat(policy.critic(now, actions), dim=1).mean(), policy.critic)
    value = torch.cat(policy.critic(now, chosen), dim=1).mean()
    kept += _gradients(log_prob.mean() - value, policy.actor)


def _gradients(loss: Tensor, module: torch.nn.Module) -> list[Tensor]:
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    return [x for x in torch.autograd.grad(loss, trained, allow_unused=True) if x is not None]
