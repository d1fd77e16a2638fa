"""A callback that starts to fine-tune the encoder once the policy has learned something."""

from collections.abc import Iterator, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnvWrapper
from torch import nn

from defm_rl.encoders import DepthEncoder
from defm_rl.sb3.vec_wrappers import VecEncodeDepth


class UnfreezeEncoder(BaseCallback):
    """Unfreezes every `DepthEncoder` inside the policy, target networks included, after some steps.

    The optimizers are made anew as a fresh policy would have them, and keep what they know of the other parameters. The
    model's `policy_kwargs` follow, so that a checkpoint written afterwards loads into the same structure. A model
    that was saved after the unfreezing and goes on with this callback is left as it is.

    Args:
        after_timesteps: Environment steps before it happens.
        trainable: "all", or names of stages, see `DepthEncoder`.
        verbose: SB3's verbosity.

    Raises:
        ValueError: At the start of training, where the policy holds no encoder.
    """

    def __init__(self, after_timesteps: int, trainable: str | Sequence[str] = "all", verbose: int = 0) -> None:
        super().__init__(verbose)
        self.after_timesteps = after_timesteps
        self.trainable = trainable
        self._done = False

    def _init_callback(self) -> None:
        self._done = False
        if next(_encoders(self.model), None) is not None:
            return
        env: Any = self.model.get_env()
        while isinstance(env, VecEnvWrapper):
            if isinstance(env, VecEncodeDepth):
                raise ValueError(
                    "The encoder runs inside the environment (VecEncodeDepth), where nothing can train it. To unfreeze "
                    "it, put it into the policy: policy_kwargs=dict(features_extractor_class=DefmExtractor)."
                )
            env = env.venv
        raise ValueError("The policy holds no DepthEncoder to unfreeze: use DefmExtractor as its features extractor.")

    def _on_step(self) -> bool:
        if not self._done and self.num_timesteps >= self.after_timesteps:
            unfreeze_encoder(self.model, self.trainable)
            self._done = True
        return True


def unfreeze_encoder(model: BaseAlgorithm, trainable: str | Sequence[str] = "all") -> None:
    """Unfreezes every `DepthEncoder` inside a model's policy, see `UnfreezeEncoder`."""
    encoders = list(_encoders(model))
    unfrozen = [parameter for encoder in encoders for parameter in encoder.unfreeze(trainable)]
    if not unfrozen:
        return
    extractor_kwargs = {
        **model.policy_kwargs.get("features_extractor_kwargs", {}),
        "trainable": list(encoders[0].trainable),
    }
    # Copies, since other models may have been made from the same dicts.
    model.policy_kwargs = {**model.policy_kwargs, "features_extractor_kwargs": extractor_kwargs}
    model.policy.features_extractor_kwargs = extractor_kwargs
    for owner, parameters in _optimized(model.policy):
        old = owner.optimizer
        make_optimizer: Any = model.policy.optimizer_class
        new = make_optimizer(parameters, lr=old.param_groups[0]["lr"], **model.policy.optimizer_kwargs)
        new.state.update(old.state)
        owner.optimizer = new


def _encoders(model: BaseAlgorithm) -> Iterator[DepthEncoder]:
    return (module for module in model.policy.modules() if isinstance(module, DepthEncoder))


def _optimized(policy: Any) -> Iterator[tuple[Any, list[nn.Parameter]]]:
    """Whatever has an optimizer in a policy, with the parameters that SB3 gives that optimizer, in SB3's order."""
    actor = getattr(policy, "actor", None)
    if actor is not None:
        yield actor, list(actor.parameters())
        critic_parameters = dict(policy.critic.named_parameters())
        # TD3 trains a shared extractor by both losses, SAC by the actor's alone.
        if policy.share_features_extractor and not hasattr(policy, "actor_target"):
            critic_parameters = {k: p for k, p in critic_parameters.items() if "features_extractor" not in k}
        yield policy.critic, list(critic_parameters.values())
        return
    for name in ("q_net", "quantile_net"):  # DQN, QR-DQN: the target network is not trained
        if hasattr(policy, name):
            yield policy, list(getattr(policy, name).parameters())
            return
    yield policy, list(policy.parameters())
