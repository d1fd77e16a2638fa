"""Features extractors: an encoder inside the policy, and the layer that follows features encoded before it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_flattened_obs_dim
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import Tensor, nn

from defm_rl.depth import is_traced
from defm_rl.encoders.weights import WeightsNotFoundError
from defm_rl.observations import ScaleWatch, depth_layouts, leaves, make_encoder, over_cameras, refuse_pictures

Observations = Tensor | dict[str, Tensor]

# SB3 builds a saved policy from the policy_kwargs that it was saved with, and refuses others but by this way.
_WHERE_IT_MOVED = (
    "To load a policy that Stable-Baselines3 has saved: from stable_baselines3.common.save_util import "
    "load_from_zip_file; kwargs = load_from_zip_file(path)[0]['policy_kwargs']; "
    "kwargs['features_extractor_kwargs']['weights'] = place; "
    "PPO.load(path, custom_objects={'policy_kwargs': kwargs})"
)


class DefmExtractor(BaseFeaturesExtractor):
    """Encodes depth inside the policy, to fine-tune the encoder with it. Other keys are flattened beside the features.

    SB3 runs a features extractor once more for each epoch, for each unshared critic and target: where nothing of the
    encoder is trained, `VecEncodeDepth` does the same work once per frame.

    Pass names and numbers only: SB3 pickles them into each checkpoint, and builds the policy from them on loading.
    Frozen weights are not part of a checkpoint; their sha256 is, and is verified.

    Args:
        observation_space: Box or Dict. Depth is floating metres, or integers with `unit`; (1, H, W), (H, W),
            (H, W, 1) or, for stacked frames, (k, H, W): each frame is encoded, their features are concatenated.
        encoder: A published model's name.
        depth_keys: The keys of a Dict that are depth. Default: those that look like single depth frames.
        latent_dim: Each camera's features are normalized, projected to this many, and pass through tanh; without it
            they come out as they are, which channels of unlike scales make hard to learn from.
        **encoder_kwargs: Settings of the `DepthEncoder`, such as weights, features, pool, trainable, unit,
            max_depth_m.

    Attributes:
        encoder: The `DepthEncoder` that all cameras share.
        layouts: The cameras, by the name of their observation.

    Raises:
        TypeError: Where a module is passed in the place of a name.
        ValueError: Where no depth is found, or another key is an image, which would be flattened.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        encoder: str = "defm_resnet18",
        *,
        depth_keys: Sequence[str] | None = None,
        latent_dim: int | None = None,
        **encoder_kwargs: Any,
    ) -> None:
        if not isinstance(encoder, str):
            raise TypeError(f"Pass the encoder's name, not a {type(encoder).__name__}: SB3 pickles policy_kwargs.")
        layouts = depth_layouts(observation_space, depth_keys)
        others = {key: space for key, space in leaves(observation_space).items() if key not in layouts}
        refuse_pictures(others)
        try:
            network = make_encoder(layouts, encoder, **encoder_kwargs)
        except WeightsNotFoundError as error:
            raise WeightsNotFoundError(f"{error} {_WHERE_IT_MOVED}") from error
        dims = {key: layout.frames * network.feature_dim for key, layout in layouts.items()}
        width = sum(dims.values()) if latent_dim is None else latent_dim * len(dims)
        super().__init__(observation_space, width + _flat_dim(others))
        self.encoder = network
        self.projections = nn.ModuleDict()
        if latent_dim is not None:
            for key, dim in dims.items():
                self.projections[key] = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, latent_dim), nn.Tanh())
        self.layouts = layouts
        self._others = tuple(others)
        self._watch = ScaleWatch(layouts, network.depth_format)
        network.checks_scale = False

    def forward(self, observations: Observations) -> Tensor:
        """Features of a batch of observations.

        Args:
            observations: As SB3 preprocesses them: floating, discrete keys one-hot.

        Returns:
            (B, features_dim): the features of each camera, then the other keys.
        """
        by_key: dict[str, Tensor] = leaves(observations)
        self._watch(by_key)
        features = over_cameras(self.layouts, by_key, self._encode)
        for key, projection in self.projections.items():
            features[key] = projection(features[key])
        return torch.cat([*features.values(), *(by_key[key].flatten(1) for key in self._others)], dim=1)

    def _encode(self, depth: Tensor) -> Tensor:
        if is_traced():
            return self.encoder(depth)
        if not self.training:
            return self.encoder(depth)
        # Recurrent policies train on sequences padded with zeros: all empty images share one encoding.
        seen = depth.flatten(1).any(dim=1)
        if bool(seen.all()):
            return self.encoder(depth)
        rows = torch.cat([seen.nonzero()[:, 0], (~seen).nonzero()[:1, 0]])
        row_of_image = torch.where(seen, seen.cumsum(0) - 1, len(rows) - 1)
        return self.encoder(depth[rows])[row_of_image]


class FeatureProjection(BaseFeaturesExtractor):
    """A linear layer and tanh over features that were encoded before the policy; other keys are flattened beside.

    Args:
        observation_space: Dict or Box, as `VecEncodeDepth` gives it.
        latent_dim: What each camera's features become.
        feature_keys: The keys that hold features. Default: the float16 vectors.

    Raises:
        ValueError: Where there are no features, or another key is an image, which would be flattened.
    """

    def __init__(
        self, observation_space: spaces.Space[Any], latent_dim: int = 64, feature_keys: Sequence[str] | None = None
    ) -> None:
        by_key = leaves(observation_space)
        if feature_keys is None:
            feature_keys = [key for key, x in by_key.items() if x.dtype == np.float16 and len(x.shape or ()) == 1]
        if not feature_keys or not set(feature_keys) <= set(by_key):
            raise ValueError(
                f"feature_keys must be one or more of {', '.join(by_key)}; got {tuple(feature_keys)}. "
                "By default they are the float16 vectors that VecEncodeDepth gives."
            )
        others = {key: space for key, space in by_key.items() if key not in feature_keys}
        refuse_pictures(others)
        super().__init__(observation_space, latent_dim * len(feature_keys) + _flat_dim(others))
        self.projections = nn.ModuleDict(
            {
                key: nn.Sequential(nn.Linear(get_flattened_obs_dim(by_key[key]), latent_dim), nn.Tanh())
                for key in feature_keys
            }
        )
        self._others = tuple(others)

    def forward(self, observations: Observations) -> Tensor:
        """(B, features_dim): the projected features of each key, then the other keys."""
        by_key: dict[str, Tensor] = leaves(observations)
        projected = [projection(by_key[key].flatten(1)) for key, projection in self.projections.items()]
        return torch.cat([*projected, *(by_key[key].flatten(1) for key in self._others)], dim=1)


def _flat_dim(by_key: dict[str, spaces.Space[Any]]) -> int:
    return sum(get_flattened_obs_dim(space) for space in by_key.values())
