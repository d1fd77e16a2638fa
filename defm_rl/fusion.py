"""Depth that is encoded inside a policy, beside whatever else the policy observes."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from gymnasium import spaces
from torch import Tensor, nn

from defm_rl.observations import ScaleWatch, depth_layouts, leaves, make_encoder, over_cameras, refuse_pictures


class DepthFusion(nn.Module):
    """One vector of an observation: depth through an encoder and a projection, other keys flattened beside it.

    Args:
        space: The space of one observation, Box or Dict.
        encoder: Settings of the `DepthEncoder` ("encoder", "weights", "features", "trainable", ...).
        depth_keys: The keys that are depth. Default: those that look like single depth frames.
        latent_dim: What each camera's features are projected to, by a layer norm, a linear layer and tanh.

    Attributes:
        encoder: The encoder.
        out_dim: Length of the vector.

    Raises:
        ValueError: Where no depth is found, another key is an image, which would be flattened, or the encoder's
            settings make no sense.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        encoder: Mapping[str, Any],
        depth_keys: Sequence[str] | None = None,
        latent_dim: int = 64,
    ) -> None:
        super().__init__()
        self._layouts = depth_layouts(space, depth_keys)
        others = {key: x for key, x in leaves(space).items() if key not in self._layouts}
        refuse_pictures(others)
        self.encoder = make_encoder(self._layouts, **encoder)
        self.projections = nn.ModuleDict()
        for key, layout in self._layouts.items():
            dim = layout.frames * self.encoder.feature_dim
            self.projections[key] = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, latent_dim), nn.Tanh())
        self.out_dim = latent_dim * len(self._layouts) + sum(prod(x.shape or ()) for x in others.values())
        self._others = tuple(others)
        self._watch = ScaleWatch(self._layouts, self.encoder.depth_format)
        self.encoder.checks_scale = False

    def forward(self, observations: Tensor | Mapping[str, Tensor]) -> Tensor:
        """(B, out_dim) of a batch of observations."""
        by_key: dict[str, Tensor] = leaves(observations)
        self._watch(by_key)
        features = over_cameras(self._layouts, by_key, self._features)
        latents = [projection(features[key]) for key, projection in self.projections.items()]
        return torch.cat([*latents, *(by_key[key].flatten(1).float() for key in self._others)], dim=1)

    def _features(self, images: Tensor) -> Tensor:
        return self.encoder(images)
