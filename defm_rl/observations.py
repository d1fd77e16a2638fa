"""Depth inside observations: which parts of an observation space are depth, and what takes their place."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.depth import DepthScaleMonitor, as_depth, normalize_channels
from defm_rl.encoders import DepthEncoder

Observation = NDArray[Any] | dict[str, NDArray[Any]]
"""What an environment gives: one array, or several by key."""

ONLY_KEY = "depth"
"""The key under which an observation that is one array, and not a dict, is handled here."""

_SMALLEST_IMAGE = 16  # pixels a side; a matrix below that is taken for something else than depth
_LARGEST_FLOAT16 = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class DepthLayout:
    """How an observation holds the depth frames of one camera.

    Attributes:
        frames: Number of stacked frames.
        height: Pixels.
        width: Pixels.
        channels_last: Whether the frames are stacked along the last axis, (H, W, frames).
    """

    frames: int
    height: int
    width: int
    channels_last: bool = False

    @classmethod
    def of(cls, space: spaces.Space[Any], key: str) -> Self:
        """The layout of a space: (H, W), (1, H, W), (H, W, 1), or stacked (k, H, W), (H, W, k), (k, 1, H, W).

        Raises:
            ValueError: Where the space cannot be depth.
        """
        if not isinstance(space, spaces.Box):
            raise ValueError(f"Depth must be a Box; {key!r} is {space}.")
        if space.dtype == np.uint8:
            raise ValueError(f"{key!r} is uint8: depth is floating metres, or uint16 millimetres with unit='mm'.")
        sizes = [size for size in space.shape if size != 1]
        if len(sizes) == 2:
            return cls(1, sizes[0], sizes[1])
        if len(sizes) == 3 and sizes[0] <= sizes[2]:
            return cls(sizes[0], sizes[1], sizes[2])
        if len(sizes) == 3:
            return cls(sizes[2], sizes[0], sizes[1], channels_last=True)
        raise ValueError(f"Depth must be (H, W), (1, H, W), (H, W, 1) or stacked (k, H, W); {key!r} is {space.shape}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def images(self, depth: Tensor) -> Tensor:
        """A batch of observations (B, ...) as single images, (B * frames, H, W)."""
        if self.channels_last:
            depth = depth.reshape(-1, self.height, self.width, self.frames).movedim(-1, 1)
        return depth.reshape(-1, self.height, self.width)


class FeatureBox(spaces.Box):
    """The space of an encoder's features: float16, and equal only to features of the same encoder and weights.

    Trainers compare spaces when they load a policy: this is how a policy refuses features it was not trained on.

    Args:
        dim: Number of features.
        source: The encoder, its settings and the sha256 of its weights, see `describe_encoder`.
    """

    def __init__(self, dim: int, source: str) -> None:
        super().__init__(-np.inf, np.inf, (dim,), np.float16)
        self.source = source

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FeatureBox) and self.source == other.source and super().__eq__(other)

    def __repr__(self) -> str:
        return f"FeatureBox({self.shape[0]}, {self.source!r})"


class DepthTransform:
    """Replaces depth in observations, batch by batch; everything else stays as it is.

    Args:
        space: The space of one observation, Box or Dict.
        depth_keys: See `depth_layouts`.
        function: From (N, H, W) depth, as the environment gives it, to (N, ...).
        make_box: The space of what takes the place of depth, from its shape.
        unit: Unit of the depth, "m" or "mm".

    Attributes:
        layouts: The depth that is replaced, by key.
        space: The space of one transformed observation.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        depth_keys: Sequence[str] | None,
        function: Callable[[Tensor], Tensor],
        make_box: Callable[[tuple[int, ...]], spaces.Box],
        unit: str = "m",
    ) -> None:
        self.layouts = depth_layouts(space, depth_keys)
        self._function = function
        self._unit = unit
        self._monitor = DepthScaleMonitor()
        probe = {key: torch.ones(1, layout.frames, *layout.size) for key, layout in self.layouts.items()}
        replaced = {key: make_box(tuple(x.shape[1:])) for key, x in over_cameras(self.layouts, probe, function).items()}
        self.space = spaces.Dict({**space.spaces, **replaced}) if isinstance(space, spaces.Dict) else replaced[ONLY_KEY]

    def __call__(
        self, observations: Observation, last: Sequence[Observation] = ()
    ) -> tuple[Observation, list[Observation]]:
        """Transforms a batch of observations, and in the same call some single ones.

        Args:
            observations: A batch, (B, ...) by key.
            last: Single observations without batch axis: those with which episodes have just ended.

        Returns:
            The same two with new arrays in the place of depth.
        """
        batch, *singles = (as_dict(observation) for observation in (observations, *last))
        depth = {}
        for key in self.layouts:
            arrays = np.concatenate([batch[key], *(single[key][None] for single in singles)]) if singles else batch[key]
            depth[key] = torch.from_numpy(np.require(arrays, requirements=["C", "W"]))
        outputs = {key: x.cpu().numpy() for key, x in over_cameras(self.layouts, depth, self._watched).items()}

        size = len(next(iter(outputs.values()))) - len(singles)
        batch = {**batch, **{key: output[:size] for key, output in outputs.items()}}
        for index, single in enumerate(singles):
            singles[index] = {**single, **{key: output[size + index] for key, output in outputs.items()}}
        if isinstance(observations, dict):
            return batch, list(singles)
        return batch[ONLY_KEY], [single[ONLY_KEY] for single in singles]

    def _watched(self, images: Tensor) -> Tensor:
        self._monitor.watch(images, self._unit)
        return self._function(images)


class EncodingTransform(DepthTransform):
    """Features take the place of depth: float16, (frames * D,) per camera.

    Features beyond what float16 holds (65504; maps without the BiFPN are not normalised) are clipped to it.

    Args:
        space: The space of one observation.
        depth_keys: See `depth_layouts`.
        encoder: A frozen `DepthEncoder`, or the name of one to make.
        device: Where the encoder runs. Default: where it is; for a new one CUDA if there is any, else the CPU.
        encoder_kwargs: Settings of a new `DepthEncoder`.

    Attributes:
        encoder: The encoder.

    Raises:
        ValueError: Where anything in the encoder would be trained.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        depth_keys: Sequence[str] | None,
        encoder: str | DepthEncoder,
        device: str | torch.device | None = None,
        **encoder_kwargs: Any,
    ) -> None:
        if isinstance(encoder, str):
            encoder = make_encoder(depth_layouts(space, depth_keys), encoder, **encoder_kwargs)
            device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        elif encoder_kwargs:
            raise ValueError(f"The encoder is made already; settings come too late: {', '.join(encoder_kwargs)}.")
        if not encoder.frozen:
            raise ValueError(
                "To encode once, in the environment, nothing in the encoder can be trained: pass trainable='none' and "
                "a pool that is not learned, or train it inside the policy (for Stable-Baselines3: DefmExtractor)."
            )
        self.encoder = encoder.to(device) if device is not None else encoder
        source = describe_encoder(encoder)
        super().__init__(space, depth_keys, self._encode, lambda shape: FeatureBox(shape[0], source), encoder.unit)

    def _encode(self, images: Tensor) -> Tensor:
        return self.encoder.encode(images).clamp(-_LARGEST_FLOAT16, _LARGEST_FLOAT16).half()


class NormalizingTransform(DepthTransform):
    """The encoders' three input channels take the place of depth: (3 * frames, H, W) per camera.

    Args:
        space: The space of one observation.
        depth_keys: See `depth_layouts`.
        size: Height and width (or square side) to resize to.
        unit: Unit of the depth, "m" or "mm".
        dtype: float16 or float32.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        depth_keys: Sequence[str] | None,
        size: int | tuple[int, int] | None = None,
        unit: str = "m",
        dtype: type[np.float16] | type[np.float32] = np.float16,
    ) -> None:
        torch_dtype = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}.get(np.dtype(dtype))
        if torch_dtype is None:
            raise ValueError(f"dtype must be float16 or float32; got {np.dtype(dtype)}.")
        super().__init__(
            space,
            depth_keys,
            lambda images: normalize_channels(as_depth(images, unit, check_values=False), size, dtype=torch_dtype),
            # The channels lie between (0 - mean) / std and (1 - mean) / std: -1.83 to 5.39.
            lambda shape: spaces.Box(-2.0, 6.0, shape, dtype),
            unit,
        )


def depth_layouts(space: spaces.Space[Any], depth_keys: Sequence[str] | None = None) -> dict[str, DepthLayout]:
    """Finds the depth in an observation space.

    Args:
        space: Of one observation. A Box is depth as a whole.
        depth_keys: The keys of a Dict that are depth. Default: every key whose shape is (H, W), (1, H, W) or (H, W, 1)
            with at least 16 pixels a side, and whose dtype is floating or uint16. Stacked frames must be named, since
            they could as well be the channels of a color image.

    Returns:
        The layout of each key; of `ONLY_KEY` for a Box.

    Raises:
        ValueError: Where there is no depth, or it is not clear what is.
    """
    if isinstance(space, spaces.Box):
        return {ONLY_KEY: DepthLayout.of(space, ONLY_KEY)}
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"Depth observations must be a Box or a Dict; got {space}.")
    if depth_keys is not None:
        unknown = [key for key in depth_keys if key not in space.spaces]
        if unknown or not depth_keys:
            raise ValueError(f"depth_keys must be one or more of {', '.join(space.spaces)}; got {tuple(depth_keys)}.")
        return {key: DepthLayout.of(space[key], key) for key in depth_keys}
    candidates = {key: DepthLayout.of(box, key) for key, box in space.spaces.items() if _looks_like_depth(box)}
    stacked = [key for key, layout in candidates.items() if layout.frames > 1]
    if stacked:
        channels = candidates[stacked[0]].frames
        raise ValueError(f"{stacked[0]!r} has {channels} channels: if they are depth frames, name it in depth_keys=.")
    if not candidates:
        raise ValueError(f"No depth among {space}: name the keys in depth_keys=.")
    return candidates


def over_cameras(
    layouts: Mapping[str, DepthLayout], depth: Mapping[str, Tensor], function: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Applies a function of single images to the depth of all cameras, to those of one size in one call.

    Args:
        layouts: The cameras.
        depth: A batch of observations (B, ...) of each.
        function: (N, H, W) to (N, C, ...).

    Returns:
        (B, frames * C, ...) by key.
    """
    outputs: dict[str, Tensor] = {}
    for size in dict.fromkeys(layout.size for layout in layouts.values()):
        keys = [key for key, layout in layouts.items() if layout.size == size]
        images = [layouts[key].images(depth[key]) for key in keys]
        output = function(images[0] if len(images) == 1 else torch.cat(images))
        parts = (output,) if len(images) == 1 else torch.split(output, [x.shape[0] for x in images])
        for key, part in zip(keys, parts, strict=True):
            frames = layouts[key].frames
            outputs[key] = part.reshape(-1, frames * part.shape[1], *part.shape[2:])
    return {key: outputs[key] for key in layouts}


def make_encoder(layouts: Mapping[str, DepthLayout], encoder: str, **kwargs: Any) -> DepthEncoder:
    """A `DepthEncoder` for these cameras; told their image size where it is one."""
    sizes = {layout.size for layout in layouts.values()}
    if len(sizes) == 1:
        kwargs = {"image_size": sizes.pop(), **kwargs}
    return DepthEncoder(encoder, **kwargs)


def describe_encoder(encoder: DepthEncoder) -> str:
    """What decides an encoder's features, in one line: equal for equal encoders on any machine."""
    pools = "".join(f" {name}:{pool}" for name, pool in encoder.pools.items())
    return (
        f"{encoder.encoder_name} sha256={encoder.provenance.sha256} features={'+'.join(encoder.features)}{pools} "
        f"bifpn={encoder.bifpn} size={encoder.size} unit={encoder.unit}"
    )


def as_dict(observation: Any) -> dict[str, Any]:
    """An observation by key, whether it is a dict or not."""
    return observation if isinstance(observation, dict) else {ONLY_KEY: observation}


def _looks_like_depth(space: spaces.Space[Any]) -> bool:
    if not isinstance(space, spaces.Box) or not (space.dtype == np.uint16 or np.issubdtype(space.dtype, np.floating)):
        return False
    sizes = [size for size in space.shape if size != 1]
    return len(sizes) in (2, 3) and sorted(sizes)[-2] >= _SMALLEST_IMAGE and DepthLayout.of(space, "").frames < 16
