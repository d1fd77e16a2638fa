"""A DeFM encoder inside rl_games' actor-critic networks; importing this registers the network "defm_actor_critic"."""

from typing import Any

import numpy as np
from gymnasium import spaces
from rl_games.algos_torch import model_builder
from rl_games.algos_torch.network_builder import A2CBuilder
from torch import Tensor

from defm_rl.fusion import DepthFusion

__all__ = ["NETWORK", "DefmBuilder"]

NETWORK = "defm_actor_critic"
"""The name under which a configuration asks for `DefmBuilder`, as `params.network.name`."""


class DefmBuilder(A2CBuilder):
    """rl_games' actor-critic (MLP, recurrent or not) behind an encoder, which `network.defm` configures.

    ```yaml
    network:
      name: defm_actor_critic
      defm: {encoder: {encoder: defm_resnet18, trainable: all}, latent_dim: 64}
      mlp: {units: [256, 128], activation: elu, initializer: {name: default}}
    ```

    Depth must arrive in metres: `normalize_input: False`, and `clip_observations` (of Isaac Lab's wrapper) beyond the
    camera's range.
    """

    def build(self, name: str, **kwargs: Any) -> "DefmBuilder.Network":
        """The network, as rl_games asks for it."""
        return DefmBuilder.Network(self.params, **kwargs)

    class Network(A2CBuilder.Network):
        """rl_games' network on what a `DepthFusion` makes of the observations.

        Raises:
            ValueError: Where the input would be normalised, or there is no `defm` among the network's settings.
        """

        def __init__(self, params: dict[str, Any], **kwargs: Any) -> None:
            if kwargs.get("normalize_input"):
                raise ValueError(
                    "config.normalize_input standardises observations, and an encoder needs depth in metres: set it to "
                    "False."
                )
            if "defm" not in params:
                raise ValueError("network.defm is missing: it holds encoder={...} and, if you like, latent_dim.")
            fusion = DepthFusion(_space(kwargs.pop("input_shape")), **params["defm"])
            super().__init__(params, input_shape=(fusion.out_dim,), **kwargs)
            # Afterwards, since the base class initialises every convolution and linear layer that it finds.
            self.fusion = fusion

        def forward(self, obs_dict: dict[str, Any]) -> Any:
            """As rl_games' own, on {"obs": a tensor, or tensors by key}."""
            fused: Tensor = self.fusion(obs_dict["obs"])
            return super().forward({**obs_dict, "obs": fused})


def _space(shape: Any) -> spaces.Space[Any]:
    """The space of observations of a shape, or of shapes by key."""
    if isinstance(shape, dict):
        return spaces.Dict({key: _space(each) for key, each in shape.items()})
    return spaces.Box(-np.inf, np.inf, tuple(shape), np.float32)


model_builder.register_network(NETWORK, DefmBuilder)
