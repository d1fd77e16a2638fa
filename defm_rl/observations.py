"""Depth inside observations: which parts of an observation space are depth, and what takes their place."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.depth import DepthFormat, DepthScaleMonitor, Unit, as_tensor, is_traced, normalize_channels
from defm_rl.encoders import DepthEncoder

Observation = NDArray[Any] | Tensor | dict[str, Any]
"""What an environment gives: one array or tensor, or several by key, in dicts within dicts where it likes."""

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
        integers: The type of integers that the depth is in; None where it is floating.
    """

    frames: int
    height: int
    width: int
    channels_last: bool = False
    integers: np.dtype[Any] | None = None

    @classmethod
    def of(cls, space: spaces.Space[Any], key: str) -> Self:
        """The layout of a space: (H, W), (1, H, W), (H, W, 1), or stacked (k, H, W), (H, W, k), (k, 1, H, W).

        Raises:
            ValueError: Where the space cannot be depth.
        """
        if not isinstance(space, spaces.Box):
            raise ValueError(f"Depth must be a Box; {key!r} is {space}.")
        if space.dtype.itemsize == 1:
            raise ValueError(
                f"{key!r} is {space.dtype}: depth is floating metres, or uint16 millimetres with unit='mm'."
            )
        integers = space.dtype if space.dtype.kind in "iu" else None
        sizes = [size for size in space.shape if size != 1]
        if len(sizes) == 2:
            return cls(1, sizes[0], sizes[1], integers=integers)
        if len(sizes) == 3 and sizes[0] <= sizes[2]:
            return cls(sizes[0], sizes[1], sizes[2], integers=integers)
        if len(sizes) == 3:
            return cls(sizes[2], sizes[0], sizes[1], channels_last=True, integers=integers)
        raise ValueError(f"Depth must be (H, W), (1, H, W), (H, W, 1) or stacked (k, H, W); {key!r} is {space.shape}.")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.height, self.width

    def images(self, depth: Tensor) -> Tensor:
        """A batch of observations (B, ...) as single images, (B * frames, H, W).

        Where a trainer has made floats of integers, their largest value, which is a hole, becomes 0 here: nothing that
        follows could tell.
        """
        if self.integers is not None and depth.is_floating_point():
            depth = torch.where(depth < float(np.iinfo(self.integers.name).max), depth, 0.0)
        if self.channels_last:
            depth = depth.reshape(-1, self.height, self.width, self.frames).movedim(-1, 1)
        return depth.reshape(-1, self.height, self.width)


class FeatureBox(spaces.Box):
    """The space of an encoder's features: float16, and equal only to features of the same encoder and weights.

    Trainers compare spaces when they load a policy: this is how a policy refuses features it was not trained on.
    Wrappers that come between make plain boxes of this one, but carry its bounds along (a stack of frames repeats
    them). So the origin is in the bounds: each is either float16's largest number or infinity, both of which hold for
    every feature, and a bit of the source's sha256 says which.

    Args:
        dim: Number of features.
        source: The encoder, its settings and the sha256 of its weights, see `describe_encoder`.
    """

    def __init__(self, dim: int, source: str) -> None:
        bits = np.unpackbits(np.frombuffer(hashlib.sha256(source.encode()).digest(), np.uint8))
        bounds = np.where(np.resize(bits, (2, dim)), np.inf, _LARGEST_FLOAT16).astype(np.float16)
        low, high = _NamedBounds.of(-bounds[0], f"features of {source}"), _NamedBounds.of(bounds[1], "as encoded")
        super().__init__(low, high, dtype=np.float16)
        self.source = source

    def __setstate__(self, state: Any) -> None:
        super().__setstate__(state)
        if not np.isfinite(self.low).any():  # saved when the origin was not in the bounds
            FeatureBox.__init__(self, self.shape[0], self.source)


class _NamedBounds(np.ndarray[Any, np.dtype[Any]]):
    """Bounds of a box that print what they bound, also when a wrapper has repeated or reshaped them."""

    text = ""

    @classmethod
    def of(cls, bounds: NDArray[Any], text: str) -> Self:
        named = bounds.view(type=cls)
        named.text = text
        return named

    def __array_finalize__(self, source: Any) -> None:
        self.text = getattr(source, "text", "")

    def __reduce__(self) -> Any:
        of_array: Any = super().__reduce__()
        return *of_array[:2], (of_array[2], self.text)

    def __setstate__(self, state: Any) -> None:
        of_array, self.text = state
        super().__setstate__(of_array)

    def __str__(self) -> str:
        return self.text or super().__str__()


def standardized_space(space: spaces.Box, clip: float) -> spaces.Box:
    """The space of what running statistics standardise and clip: unlike that of what they take, and of the same origin.

    Args:
        space: What is standardised; of integers it is returned as it is.
        clip: Largest size of what comes out.
    """
    if not np.issubdtype(space.dtype, np.floating):
        return space
    low, high = space.low.copy(), space.high.copy()
    low[np.isfinite(low)], high[np.isfinite(high)] = -clip, clip
    if isinstance(high, _NamedBounds):
        high.text = "standardized"
    return spaces.Box(low, high, dtype=space.dtype.type)


class Transform(ABC):
    """Puts something else in the place of depth, batch by batch; everything else stays as it is.

    What an interface (gymnasium's, Stable-Baselines3's) calls the ends and beginnings of episodes is the business of
    the shell around this.

    Attributes:
        layouts: The depth that is replaced, by path (see `leaves`).
        space: The space of one transformed observation.
    """

    layouts: dict[str, DepthLayout]
    space: spaces.Space[Any]

    @abstractmethod
    def reset(
        self,
        observations: Observation,
        envs: Tensor | None = None,
        seed: int | None = None,
        numbers: Tensor | None = None,
    ) -> Observation:
        """Transforms the observations after a reset.

        Args:
            observations: A batch, (num_envs, ...) by path; arrays become arrays, and tensors tensors on their device.
            envs: The environments in which episodes begin, (N,) integers; None for all.
            seed: With which random numbers begin anew.
            numbers: The numbers of the episodes that begin, (num_envs,) int64, negative where they have none; None
                where no episode has.
        """

    @abstractmethod
    def step(
        self,
        observations: Observation,
        fresh: Tensor,
        ended: Tensor,
        last: Mapping[str, Tensor],
        numbers: Tensor | None = None,
    ) -> tuple[Observation, dict[str, Tensor]]:
        """Transforms the observations after a step.

        Args:
            observations: As in `reset`.
            fresh: The environments in which an episode begins with these observations, and no last one is known of the
                episode before, (N,) integers.
            ended: The environments in which one begins and the last observation of the one before is known, (E,).
            last: The depth of these last observations, (E, ...) by path.
            numbers: As in `reset`.

        Returns:
            The batch, and what takes the place of `last`.
        """


class DepthTransform(Transform):
    """A function of single images takes the place of depth; episodes do not matter to it.

    Args:
        space: The space of one observation, Box or Dict.
        depth_keys: See `depth_layouts`.
        function: From (N, H, W) depth, as the environment gives it, to (N, ...).
        make_box: The space of what takes the place of depth, from its shape.
        depth_format: Unit and limit of the depth. Default: metres, without a limit.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        depth_keys: Sequence[str] | None,
        function: Callable[[Tensor], Tensor],
        make_box: Callable[[tuple[int, ...]], spaces.Box],
        depth_format: DepthFormat | None = None,
    ) -> None:
        self.layouts = depth_layouts(space, depth_keys)
        self._function = function
        self._watch = ScaleWatch(self.layouts, depth_format)
        probe = {key: torch.ones(1, layout.frames, *layout.size) for key, layout in self.layouts.items()}
        outputs = over_cameras(self.layouts, probe, function)
        self.space = with_leaves(space, {key: make_box(tuple(x.shape[1:])) for key, x in outputs.items()})

    def reset(
        self,
        observations: Observation,
        envs: Tensor | None = None,
        seed: int | None = None,
        numbers: Tensor | None = None,
    ) -> Observation:
        """Transforms all observations."""
        return self._replaced(observations, {})[0]

    def step(
        self,
        observations: Observation,
        fresh: Tensor,
        ended: Tensor,
        last: Mapping[str, Tensor],
        numbers: Tensor | None = None,
    ) -> tuple[Observation, dict[str, Tensor]]:
        """Transforms all observations; the last ones of episodes join the batch."""
        return self._replaced(observations, last if len(ended) else {})

    def _replaced(self, observations: Observation, last: Mapping[str, Tensor]) -> tuple[Observation, dict[str, Tensor]]:
        given = leaves(observations)
        depth = {key: as_tensor(given[key]) for key in self.layouts}
        if last:
            depth = {key: torch.cat([x, last[key].to(x.device)]) for key, x in depth.items()}
        self._watch(depth)
        outputs = over_cameras(self.layouts, depth, self._function)
        size = len(given[next(iter(self.layouts))])
        batch = with_leaves(observations, {key: as_given(x[:size], given[key]) for key, x in outputs.items()})
        return batch, {key: x[size:] for key, x in outputs.items()}


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
        self.encoder.checks_scale = False  # each camera is watched for itself
        source = describe_encoder(encoder)
        super().__init__(
            space, depth_keys, self._encode, lambda shape: FeatureBox(shape[0], source), encoder.depth_format
        )

    def _encode(self, images: Tensor) -> Tensor:
        return to_float16(self.encoder.encode(images))


class NormalizingTransform(DepthTransform):
    """The encoders' three input channels take the place of depth: (3 * frames, H, W) per camera.

    Args:
        space: The space of one observation.
        depth_keys: See `depth_layouts`.
        size: Height and width (or square side) to resize to.
        unit: Unit of the depth: "m", "mm", or the metres of one count, such as 0.0001.
        max_depth_m: Beyond it a pixel is a hole; None for no limit.
        dtype: float16 or float32.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        depth_keys: Sequence[str] | None,
        size: int | tuple[int, int] | None = None,
        unit: Unit = "m",
        max_depth_m: float | None = None,
        dtype: type[np.float16] | type[np.float32] = np.float16,
    ) -> None:
        depth_format = DepthFormat(unit, max_depth_m)
        torch_dtype = {np.dtype(np.float16): torch.float16, np.dtype(np.float32): torch.float32}.get(np.dtype(dtype))
        if torch_dtype is None:
            raise ValueError(f"dtype must be float16 or float32; got {np.dtype(dtype)}.")
        super().__init__(
            space,
            depth_keys,
            lambda images: normalize_channels(depth_format.read(images, check_values=False), size, dtype=torch_dtype),
            # The channels lie between (0 - mean) / std and (1 - mean) / std: -1.83 to 5.39.
            lambda shape: spaces.Box(-2.0, 6.0, shape, dtype),
            depth_format,
        )


class ScaleWatch:
    """Watches each camera's depth for itself: one in metres does not hide another that is not.

    Args:
        layouts: The cameras.
        depth_format: Unit and limit of the depth. Default: metres, without a limit.
    """

    def __init__(self, layouts: Mapping[str, DepthLayout], depth_format: DepthFormat | None = None) -> None:
        self._layouts = layouts
        self._monitors = {key: DepthScaleMonitor(depth_format=depth_format, camera=key) for key in layouts}

    @property
    def done(self) -> bool:
        """Whether each camera has looked like metres, or was warned of."""
        return all(monitor.done for monitor in self._monitors.values())

    def __call__(self, depth: Mapping[str, Tensor]) -> None:
        """Watches a batch of observations (B, ...) of each camera; costs nothing once each looked like metres.

        Warns:
            ScaleWarning: A camera's depth does not look like metres, see `DepthScaleMonitor`.
        """
        if is_traced():
            return
        for key, monitor in self._monitors.items():
            if not monitor.done:
                monitor.watch(self._layouts[key].images(depth[key]))


def depth_layouts(space: spaces.Space[Any], depth_keys: Sequence[str] | None = None) -> dict[str, DepthLayout]:
    """Finds the depth in an observation space.

    Args:
        space: Of one observation. A Box is depth as a whole.
        depth_keys: The keys of a Dict that are depth; in nested ones their paths, such as
            "sensor_data/base_camera/depth". Default: every key whose shape is (H, W), (1, H, W) or (H, W, 1) with at
            least 16 pixels a side, and whose dtype is floating or uint16, or another integer of 16 bits or more where
            "depth" is in its name. Stacked frames must be named, since they could as well be the channels of a color
            image.

    Returns:
        The layout of each path; of `ONLY_KEY` for a Box.

    Raises:
        ValueError: Where there is no depth, or it is not clear what is.
    """
    if isinstance(space, spaces.Box):
        return {ONLY_KEY: DepthLayout.of(space, ONLY_KEY)}
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"Depth observations must be a Box or a Dict; got {space}.")
    parts = leaves(space)
    if depth_keys is not None:
        names = [str(key) for key in depth_keys]
        unknown = [name for name in names if name not in parts]
        if unknown or not names:
            raise ValueError(f"depth_keys must be one or more of {', '.join(parts)}; got {tuple(depth_keys)}.")
        return {name: DepthLayout.of(parts[name], name) for name in names}
    candidates = {path: DepthLayout.of(part, path) for path, part in parts.items() if _looks_like_depth(part, path)}
    stacked = [key for key, layout in candidates.items() if layout.frames > 1]
    if stacked:
        channels = candidates[stacked[0]].frames
        raise ValueError(f"{stacked[0]!r} has {channels} channels: if they are depth frames, name it in depth_keys=.")
    if not candidates:
        raise ValueError(f"No depth among {space}: name the keys in depth_keys=, one or more of {', '.join(parts)}.")
    return candidates


def over_cameras(
    layouts: Mapping[str, DepthLayout], depth: Mapping[str, Tensor], function: Callable[[Tensor], Tensor]
) -> dict[str, Tensor]:
    """Applies a function of single images to the depth of all cameras, to those of one size and dtype in one call.

    Args:
        layouts: The cameras.
        depth: A batch of observations (B, ...) of each.
        function: (N, H, W) to (N, C, ...).

    Returns:
        (B, frames * C, ...) by key.
    """
    outputs: dict[str, Tensor] = {}
    kinds = {key: (layout.size, depth[key].dtype) for key, layout in layouts.items()}
    for kind in dict.fromkeys(kinds.values()):
        keys = [key for key in layouts if kinds[key] == kind]
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
    """What decides an encoder's features, in one line: equal for equal encoders on any machine.

    One that was adapted to a camera is described as its parent, whose features it is to give: policies that were
    trained on these take them, see `DepthEncoder.stands_for`.
    """
    limit_m = encoder.depth_format.max_depth_m
    return f"{encoder.encoder_name} sha256={encoder.stands_for} {encoder.feature_settings} unit={encoder.unit}" + (
        "" if limit_m is None else f" max_depth_m={limit_m}"
    )


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """The parts of an observation or of a space by path, whether it is one of them, a dict, or dicts within dicts.

    Args:
        tree: An observation or a space.
        path: Where it stands in a larger one.

    Returns:
        Arrays or spaces by path, such as "sensor_data/base_camera/depth"; by `ONLY_KEY` where there is but one.

    Raises:
        ValueError: Where two parts have one path.
    """
    if not isinstance(tree, Mapping):
        return {path or ONLY_KEY: tree}
    found: dict[str, Any] = {}
    for key, part in tree.items():
        inside = leaves(part, _path(path, key))
        twice = found.keys() & inside.keys()
        if twice:
            raise ValueError(f"Two parts of the observation have the path {twice.pop()!r}: give one another key.")
        found |= inside
    return found


def to_float16(x: Tensor) -> Tensor:
    """In float16, with what it cannot hold (beyond 65504) cut to what it can.

    A cast alone would make infinities of it, and statistics that have seen one of them are NaN for good.
    """
    return x.clamp(-_LARGEST_FLOAT16, _LARGEST_FLOAT16).half()


def refuse_pictures(others: Mapping[str, spaces.Space[Any]]) -> None:
    """Refuses images among what a policy's network would flatten beside depth or features.

    Raises:
        ValueError: Where anything has two axes of at least 16 pixels, or is a uint8 image.
    """
    for key, space in others.items():
        shape = space.shape or ()
        if sum(size >= _SMALLEST_IMAGE for size in shape) >= 2 or (len(shape) == 3 and space.dtype == np.uint8):
            raise ValueError(
                f"{key!r} is an image, {shape} of {space.dtype}, and would be flattened. If it is depth, name it in "
                "depth_keys=; encode another image in an extractor of your own, or leave it out of the observations; "
                "what is no image, flatten in the environment."
            )


def with_leaves(tree: Any, parts: Mapping[str, Any], path: str = "") -> Any:
    """An observation or a space with other parts at some of the paths of `leaves`; dicts are copied, arrays are not."""
    if not isinstance(tree, Mapping):
        return parts.get(path or ONLY_KEY, tree)
    replaced = {key: with_leaves(part, parts, _path(path, key)) for key, part in tree.items()}
    return spaces.Dict(list(replaced.items())) if isinstance(tree, spaces.Dict) else replaced  # a list keeps its order


def rows_of(observations: Sequence[Observation], paths: Iterable[str]) -> dict[str, Tensor]:
    """Some parts of single observations as one batch, (N, ...) by path; empty where there are no observations."""
    parts = [leaves(observation) for observation in observations]
    return {path: torch.stack([as_tensor(each[path]) for each in parts]) for path in paths} if parts else {}


def with_row(observation: Observation, rows: Mapping[str, Tensor], index: int) -> Any:
    """A single observation with one row of a batch in the place of its own parts."""
    given = leaves(observation)
    return with_leaves(observation, {path: as_given(batch[index], given[path]) for path, batch in rows.items()})


def exchanged(batch: Tensor, envs: Tensor, rows: Tensor) -> Tensor:
    """A copy of a batch (num_envs, ...) that holds other rows (N, ...) for some environments (N,)."""
    take = torch.arange(len(batch), device=batch.device)
    take[envs.to(batch.device)] = torch.arange(len(batch), len(batch) + len(envs), device=batch.device)
    return torch.cat([batch, rows.to(batch.device)])[take]  # PyTorch reads uint16 by index, but does not write it


def as_given(tensor: Tensor, given: NDArray[Any] | Tensor) -> NDArray[Any] | Tensor:
    """A tensor on the device of `given`, or an array where that is one."""
    return tensor.to(given.device) if isinstance(given, Tensor) else tensor.cpu().numpy()


def as_array(value: Any) -> Any:
    """A tensor as an array on the host; anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no bfloat16


def _path(path: str, key: object) -> str:
    return f"{path}/{key}" if path else str(key)


def _looks_like_depth(space: spaces.Space[Any], path: str) -> bool:
    if not isinstance(space, spaces.Box):
        return False
    named = space.dtype.kind in "iu" and space.dtype.itemsize > 1 and "depth" in path.rpartition("/")[2].lower()
    if not (space.dtype.newbyteorder("=") == np.uint16 or np.issubdtype(space.dtype, np.floating) or named):
        return False
    sizes = [size for size in space.shape if size != 1]
    return len(sizes) in (2, 3) and sorted(sizes)[-2] >= _SMALLEST_IMAGE and DepthLayout.of(space, "").frames < 16
