"""RSL-RL's model for policies that see: features that were encoded before it, or an encoder inside it."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from rsl_rl.models import MLPModel
from rsl_rl.modules import RNN, EmpiricalNormalization
from rsl_rl.utils import resolve_callable
from tensordict import TensorDict
from torch import Tensor, nn

from defm_rl.encoders import DepthEncoder
from defm_rl.observations import DepthLayout, ScaleWatch, over_cameras

_SMALLEST_STD = 1e-5  # of a feature; float16 tells no smaller differences apart around 0.01


class DefmModel(MLPModel):  # type: ignore[misc]  # RSL-RL is not typed
    """An actor, critic, student or teacher that takes depth, features and vectors; recurrent where `rnn_type` is set.

    Observation groups of its set are told apart by their tensors, or by name where that is given:

    * *vectors*, (N, k), are concatenated; `obs_normalization` is theirs;
    * *features* that were encoded before, as by `EncodeDepth`, (N, D): float16 by default. Each is standardised by
      running statistics (which begin with the first observations and are saved with the model) and clipped, then
      projected to `latent_dim` numbers by a linear layer and tanh;
    * *depth*, (N, 1, H, W), (N, H, W), (N, H, W, 1), or stacked frames: whatever has more axes than a vector. It runs
      through `encoder` inside the model, to fine-tune it, then through a layer norm and the same projection.

    **Sharing.** With `share_cnn_encoders=True` in RSL-RL's algorithm configuration the critic uses the actor's encoder:
    its parameters are in the optimizer and in checkpoints once, and each batch is encoded once for both.

    **Recurrent** models encode only the frames that were seen, not the padding of the sequences they train on.

    Args:
        obs, obs_groups, obs_set, output_dim, hidden_dims, activation, obs_normalization, distribution_cfg: As in
            RSL-RL's `MLPModel`.
        encoder: Settings of the `DepthEncoder` inside the model ("encoder", "weights", "features", "pool",
            "trainable", ...). With "class_name" ("module:Class") another module that takes `image_size`, has a
            `feature_dim` and makes (B, D) of (B, H, W) depth.
        depth_groups: Groups that are depth. Default: see above.
        feature_groups: Groups that are features. Default: see above.
        latent_dim: What each camera's features are projected to.
        feature_normalization: Whether features are standardised, and those of an encoder inside layer-normalised.
        feature_clip: Standard deviations at which standardised features are clipped.
        rnn_type: "lstm" or "gru" for a recurrent model.
        rnn_hidden_dim: Size of its state.
        rnn_num_layers: Its layers.
        initial_output_scale: Factor on the last layer's initial weights: small ones begin with outputs near 0.
        cnns: The actor's encoding, as RSL-RL passes it to the critic with `share_cnn_encoders`.

    Raises:
        ValueError: Where there is depth and no encoder, or groups do not fit.
    """

    def __init__(
        self,
        obs: TensorDict,
        obs_groups: dict[str, list[str]],
        obs_set: str,
        output_dim: int,
        hidden_dims: Sequence[int] = (256, 256, 256),
        activation: str = "elu",
        obs_normalization: bool = False,
        distribution_cfg: dict[str, Any] | None = None,
        *,
        encoder: Mapping[str, Any] | None = None,
        depth_groups: Sequence[str] | None = None,
        feature_groups: Sequence[str] | None = None,
        latent_dim: int = 64,
        feature_normalization: bool = True,
        feature_clip: float = 5.0,
        rnn_type: str | None = None,
        rnn_hidden_dim: int = 256,
        rnn_num_layers: int = 1,
        initial_output_scale: float = 1.0,
        cnns: "DepthEncoding | None" = None,
    ) -> None:
        active = list(obs_groups[obs_set])
        depth, features, vectors = _sorted_groups(obs, active, depth_groups, feature_groups)
        vector_dim = sum(obs[group].shape[-1] for group in vectors)
        self.group_shapes = {group: tuple(obs[group].shape[1:]) for group in active}
        self._vectors = vectors, vector_dim
        self._input_dim = vector_dim + latent_dim * (len(depth) + len(features))
        self._head_dim = self._input_dim if rnn_type is None else rnn_hidden_dim
        self.is_recurrent = rnn_type is not None
        super().__init__(
            obs,
            obs_groups,
            obs_set,
            output_dim,
            hidden_dims,
            activation,
            obs_normalization and vector_dim > 0,
            distribution_cfg,
        )
        self.depth_groups, self.feature_groups = depth, features
        self.encoding: DepthEncoding | None = None
        # In a tuple, where `parameters()` and `state_dict()` do not look: it belongs to the actor.
        self._borrowed: tuple[DepthEncoding, ...] = ()
        if depth and cnns is not None:
            self._borrowed = (cnns.lent_to(depth),)
        elif depth:
            self.encoding = DepthEncoding({group: obs[group] for group in depth}, encoder, obs_set)

        self.feature_norms = nn.ModuleDict()
        self.projections = nn.ModuleDict()
        for group in features:
            dim = obs[group].shape[-1]
            if feature_normalization:
                norm = _FeatureNormalization(dim, feature_clip)
                norm.update(obs[group])
                self.feature_norms[group] = norm
            self.projections[group] = nn.Sequential(nn.Linear(dim, latent_dim), nn.Tanh())
        for group in depth:
            dim = self.depth_encoding.dims[group]
            layers = (nn.LayerNorm(dim),) if feature_normalization else ()
            self.projections[group] = nn.Sequential(*layers, nn.Linear(dim, latent_dim), nn.Tanh())
        with torch.no_grad():
            for parameter in self.mlp[-1].parameters():
                parameter.mul_(initial_output_scale)
        self.rnn = RNN(self._input_dim, rnn_hidden_dim, rnn_num_layers, rnn_type) if rnn_type is not None else None

    @property
    def cnns(self) -> "DepthEncoding | None":
        """The encoder and its cameras, for a critic to share; None where there is no depth."""
        return self.encoding

    @property
    def encoder(self) -> nn.Module | None:
        """The encoder inside the model, its own or the actor's."""
        return self.depth_encoding.encoder if self.depth_groups else None

    def get_latent(self, obs: TensorDict, masks: Tensor | None = None, hidden_state: Any = None) -> Tensor:
        """What the MLP is given.

        Args:
            obs: Observations, (N, ...) or, of sequences, (T, N, ...).
            masks: (T, N) bool: which steps of padded sequences are real ones; of recurrent models in updates.
            hidden_state: The recurrent state that the sequences begin with.
        """
        vectors = super().get_latent(obs) if self.obs_groups else None
        encoded = self.depth_encoding(obs, masks, borrowing=bool(self._borrowed)) if self.depth_groups else {}
        features = {group: obs[group] for group in self.feature_groups}
        latent = joined(self.feature_norms, self.projections, vectors, features, encoded)
        if self.rnn is None:
            return latent
        out: Tensor = self.rnn(latent, masks, hidden_state)
        return out if masks is not None else out.squeeze(0)

    def update_normalization(self, obs: TensorDict) -> None:
        """Takes a rollout's observations into the running statistics of vectors and features."""
        if self.obs_groups:
            super().update_normalization(obs)
        norms: Any = self.feature_norms
        for group, norm in norms.items():
            norm.update(obs[group])

    def reset(self, dones: Tensor | None = None, hidden_state: Any = None) -> None:
        """Forgets the episodes that are over; sets the recurrent state."""
        if self.rnn is not None:
            self.rnn.reset(dones, hidden_state)

    def get_hidden_state(self) -> Any:
        """The recurrent state; None where there is none."""
        return None if self.rnn is None else self.rnn.hidden_state

    def detach_hidden_state(self, dones: Tensor | None = None) -> None:
        """Ends the recurrent state's gradients."""
        if self.rnn is not None:
            self.rnn.detach_hidden_state(dones)

    def as_jit(self) -> nn.Module:
        """What RSL-RL's and Isaac Lab's exporters script: a `TorchModel`; of a policy of vectors, RSL-RL's own."""
        from defm_rl.rsl_rl.exported import TorchModel

        return TorchModel(self) if self.projections or self.is_recurrent else super().as_jit()

    def as_onnx(self, verbose: bool = False) -> nn.Module:
        """What their exporters make ONNX of: an `OnnxModel`; of a policy of vectors, RSL-RL's own."""
        from defm_rl.rsl_rl.exported import OnnxModel

        return OnnxModel(self, verbose) if self.projections or self.is_recurrent else super().as_onnx(verbose)

    @property
    def depth_encoding(self) -> "DepthEncoding":
        """The encoder and its cameras, its own or the actor's, of a model that sees depth."""
        encoding = self._borrowed[0] if self._borrowed else self.encoding
        assert encoding is not None
        return encoding

    @property
    def _device(self) -> torch.device:
        return next(self.mlp.parameters()).device

    def _get_obs_dim(self, obs: TensorDict, obs_groups: dict[str, list[str]], obs_set: str) -> tuple[list[str], int]:
        return self._vectors

    def _get_latent_dim(self) -> int:
        return self._head_dim


def joined(
    norms: nn.ModuleDict,
    projections: nn.ModuleDict,
    vectors: Tensor | None,
    features: Mapping[str, Tensor],
    encoded: Mapping[str, Tensor],
) -> Tensor:
    """What the recurrent layers or the MLP of a `DefmModel` are given.

    Args:
        norms: Its feature normalizations, by group.
        projections: Its projections, by group.
        vectors: Vectors, normalized.
        features: What was encoded before the model, by group.
        encoded: What was encoded inside it.
    """
    parts = [] if vectors is None else [vectors]
    for group, x in features.items():
        x = x.float()
        if group in norms:
            x = norms[group](x)
        parts.append(projections[group](x))
    parts += [projections[group](x) for group, x in encoded.items()]
    return torch.cat(parts, dim=-1)


class DepthEncoding(nn.Module):
    """An encoder with the cameras that it is for; lent by an actor to its critic, so that each batch is encoded once.

    Args:
        depth: The first observations of each camera, (N, ...).
        settings: See `DefmModel`.
        owner: The model's observation set, for messages.

    Attributes:
        encoder: The encoder.
        dims: Features of each camera, its frames' side by side.
    """

    def __init__(self, depth: Mapping[str, Tensor], settings: Mapping[str, Any] | None, owner: str) -> None:
        super().__init__()
        if settings is None:
            raise ValueError(
                f"The {owner} sees depth ({', '.join(depth)}) but has no encoder: give its model encoder={{...}}, or a "
                "critic the actor's by share_cnn_encoders=True in the algorithm, or encode once, in the environment."
            )
        self.layouts = {
            group: DepthLayout.of(spaces.Box(0.0, np.inf, tuple(x.shape[1:]), np.float32), group)
            for group, x in depth.items()
        }
        self.encoder = _make_encoder(settings, self.layouts)
        feature_dim = int(self.encoder.feature_dim)  # type: ignore[arg-type]
        self.dims = {group: layout.frames * feature_dim for group, layout in self.layouts.items()}
        self._watch: ScaleWatch | None = None
        if isinstance(self.encoder, DepthEncoder):
            self._watch = ScaleWatch(self.layouts, self.encoder.depth_format)
            self.encoder.checks_scale = False
        self._lent = False
        self._kept: _Kept | None = None

    def lent_to(self, groups: Sequence[str]) -> "DepthEncoding":
        """Itself, for another model that sees these cameras."""
        if list(groups) != list(self.layouts):
            raise ValueError(
                f"A shared encoder encodes once for actor and critic, so both must see the same depth; the actor sees "
                f"{', '.join(self.layouts)}, the critic {', '.join(groups)}."
            )
        self._lent = True
        return self

    def forward(self, obs: TensorDict, masks: Tensor | None = None, *, borrowing: bool = False) -> dict[str, Tensor]:
        """Features (..., D) of each camera; zeros where `masks` does not say that there is a step.

        An encoder that is lent keeps what its owner has just encoded until the borrower asks for the same batch. Where
        the borrower needs gradients and the owner did not, it is encoded again.
        """
        depth = [obs[group] for group in self.layouts]
        kept, self._kept = self._kept, None
        if borrowing and kept is not None and kept.serves(depth):
            return kept.encoded
        encoded = self._encode(dict(zip(self.layouts, depth, strict=True)), obs.batch_size, masks)
        if self._lent and not borrowing:
            self._kept = _Kept(depth, encoded, torch.is_grad_enabled())
        return encoded

    def encode(self, depth: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Features (N, D) of each camera's (N, ...) depth."""
        return over_cameras(self.layouts, depth, self._features)

    def alone(self) -> "DepthEncoding":
        """A copy that is lent to nobody, and keeps nothing."""
        alone = copy.copy(self)
        alone.__dict__ = {**self.__dict__, "_lent": False, "_kept": None}
        return copy.deepcopy(alone)

    def _encode(self, depth: dict[str, Tensor], batch: torch.Size, masks: Tensor | None) -> dict[str, Tensor]:
        if self._watch is not None and not self._watch.done:
            self._watch(
                {group: x.flatten(0, len(batch) - 1) if masks is None else x[masks] for group, x in depth.items()}
            )
        if masks is None:
            flat = {group: x.flatten(0, len(batch) - 1) for group, x in depth.items()}
            encoded = self.encode(flat)
            return {group: x.unflatten(0, batch) for group, x in encoded.items()}
        seen = self.encode({group: x[masks] for group, x in depth.items()})
        padded = {group: x.new_zeros(*masks.shape, x.shape[-1]) for group, x in seen.items()}
        for group, x in seen.items():
            padded[group][masks] = x
        return padded

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        return features


class _Kept(NamedTuple):
    """A batch of depth and what was encoded of it."""

    depth: list[Tensor]
    encoded: dict[str, Tensor]
    with_gradients: bool

    def serves(self, depth: list[Tensor]) -> bool:
        """Whether it is what is asked for."""
        the_same = all(x is y for x, y in zip(depth, self.depth, strict=True))
        return the_same and (self.with_gradients or not torch.is_grad_enabled())


class _FeatureNormalization(EmpiricalNormalization):  # type: ignore[misc]  # RSL-RL is not typed
    """Running standardization of wide features: in float32 whatever they come in, and clipped."""

    def __init__(self, dim: int, clip: float) -> None:
        super().__init__(dim, eps=_SMALLEST_STD)
        self.clip = clip

    def forward(self, x: Tensor) -> Tensor:
        normalized: Tensor = super().forward(x)
        return normalized.clamp(-self.clip, self.clip)

    def update(self, x: Tensor) -> None:
        super().update(x.float())


def _sorted_groups(
    obs: TensorDict, active: Sequence[str], depth: Sequence[str] | None, features: Sequence[str] | None
) -> tuple[list[str], list[str], list[str]]:
    """Depth, features and vectors among the active groups."""
    if depth is None:
        depth = [group for group in active if obs[group].dim() > 2]
    if features is None:
        features = [group for group in active if obs[group].dtype == torch.float16]
    depth_groups = [group for group in active if group in depth]
    feature_groups = [group for group in active if group in features and group not in depth]
    vectors = [group for group in active if group not in (*depth, *features)]
    for group in (*feature_groups, *vectors):
        if obs[group].dim() != 2:
            raise ValueError(
                f"{group!r} is {tuple(obs[group].shape)}: depth is named in depth_groups, all else is (N, k)."
            )
    return depth_groups, feature_groups, vectors


def _make_encoder(settings: Mapping[str, Any], layouts: Mapping[str, DepthLayout]) -> nn.Module:
    settings = dict(settings)
    make: Callable[..., nn.Module] = resolve_callable(settings.pop("class_name", DepthEncoder))
    sizes = {layout.size for layout in layouts.values()}
    if len(sizes) == 1:
        settings = {"image_size": sizes.pop(), **settings}
    return make(**settings)
