"""A DeFM encoder inside skrl's policies, for PyTorch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from gymnasium import spaces
from skrl.models.torch import DeterministicMixin, GaussianMixin, Model
from skrl.utils.runner.torch import Runner
from skrl.utils.spaces.torch import unflatten_tensorized_space
from torch import Tensor, nn

from defm_rl.fusion import DepthFusion

__all__ = ["DefmModel", "DefmRunner"]


class DefmModel(GaussianMixin, DeterministicMixin, Model):
    """Policy and value function on one encoder, which runs once for both.

    skrl flattens observations into one vector for its memory; they are taken apart again here. Depth must arrive in
    metres: no `observation_preprocessor`.

    Args:
        observation_space, state_space, action_space, device: As in skrl's `Model`.
        encoder: Settings of the `DepthEncoder` ("encoder", "weights", "features", "trainable", ...).
        depth_keys: The keys that are depth. Default: those that look like single depth frames.
        latent_dim: What each camera's features are projected to.
        hidden_dims: Layers of the policy and of the value function, each.
        initial_log_std: Logarithm of the actions' first standard deviation.
        clip_actions: Whether actions are clipped to their space.

    Attributes:
        fusion: The encoder and its projection.

    Raises:
        ValueError: Where no depth is found, or the encoder's settings make no sense.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        state_space: spaces.Space[Any] | None = None,
        device: str | torch.device | None = None,
        *,
        encoder: Mapping[str, Any],
        depth_keys: Sequence[str] | None = None,
        latent_dim: int = 64,
        hidden_dims: Sequence[int] = (256, 128),
        initial_log_std: float = 0.0,
        clip_actions: bool = False,
    ) -> None:
        Model.__init__(
            self,
            observation_space=observation_space,
            state_space=state_space,
            action_space=action_space,
            device=device,
        )
        GaussianMixin.__init__(self, clip_actions=clip_actions, role="policy")
        DeterministicMixin.__init__(self, role="value")
        self.fusion = DepthFusion(observation_space, encoder, depth_keys, latent_dim)
        self.policy = _mlp(self.fusion.out_dim, hidden_dims, self.num_actions)
        self.value = _mlp(self.fusion.out_dim, hidden_dims, 1)
        self.log_std = nn.Parameter(torch.full((self.num_actions,), initial_log_std))
        self._fused: tuple[Tensor, Tensor] | None = None
        self.to(self.device)

    def act(self, inputs: dict[str, Any], *, role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """Samples actions (role "policy"), or estimates values."""
        mixin = GaussianMixin if role == "policy" else DeterministicMixin
        acted: tuple[Tensor, dict[str, Any]] = mixin.act(self, inputs, role=role)
        return acted

    def compute(self, inputs: dict[str, Any], role: str = "") -> tuple[Tensor, dict[str, Any]]:
        """The actions' means with their deviation, or the values."""
        observations = inputs["observations"]
        if role == "policy":
            fused = self._fuse(observations)
            # The value of the same batch is what PPO asks for next.
            self._fused = (observations, fused) if torch.is_grad_enabled() else None
            return self.policy(fused), {"log_std": self.log_std}
        kept, self._fused = self._fused, None
        fused = kept[1] if kept is not None and kept[0] is observations else self._fuse(observations)
        return self.value(fused), {}

    def _fuse(self, observations: Tensor) -> Tensor:
        fused: Tensor = self.fusion(unflatten_tensorized_space(self.observation_space, observations))
        return fused


class DefmRunner(Runner):
    """skrl's runner, which also makes a `DefmModel` for policy and value where the configuration says so.

    ```yaml
    models:
      class: DefmModel
      encoder: {encoder: defm_resnet18, trainable: all}
      hidden_dims: [256, 128]
    ```

    Raises:
        ValueError: Where an observation preprocessor would change metres.
    """

    def _generate_models(self, env: Any, cfg: dict[str, Any]) -> dict[str, dict[str, Any]]:
        settings = dict(cfg["models"])
        if settings.pop("class", None) != "DefmModel":
            models: dict[str, dict[str, Any]] = super()._generate_models(env, cfg)
            return models
        if cfg["agent"].get("observation_preprocessor") is not None:
            raise ValueError(
                "agent.observation_preprocessor standardises observations, and an encoder needs depth in metres: "
                "set it to null."
            )
        model = DefmModel(env.observation_space, env.action_space, env.state_space, env.device, **settings)
        return {"agent": {"policy": model, "value": model}}


def _mlp(in_dim: int, hidden_dims: Sequence[int], out_dim: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for dim in hidden_dims:
        layers += [nn.Linear(in_dim, dim), nn.ELU()]
        in_dim = dim
    return nn.Sequential(*layers, nn.Linear(in_dim, out_dim))
