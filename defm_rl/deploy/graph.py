"""A whole policy as one module of tensors: depth in the camera's unit and vectors in, actions out."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from defm_rl.encoders import DepthEncoder
from defm_rl.observations import DepthLayout, over_cameras

_LARGEST_FLOAT16 = torch.finfo(torch.float16).max


class Encode(nn.Module):
    """What a wrapper that encodes once does: features take the place of depth.

    They stay in float32, where the wrapper rounds them to float16 for the buffers of a training: two computations of
    one feature that differ in their last bit can round to two float16 numbers, and then nothing could be held against
    anything.

    Args:
        encoder: The encoder; it is copied.
        layouts: The cameras, by the name of their observation.
    """

    def __init__(self, encoder: DepthEncoder, layouts: Mapping[str, DepthLayout]) -> None:
        super().__init__()
        self.encoder = in_float32(encoder)
        self.layouts = dict(layouts)

    def forward(self, observations: dict[str, Tensor]) -> dict[str, Tensor]:
        """The observations by name, (B, ...)."""
        features = over_cameras(self.layouts, observations, self._features)
        return {**observations, **features}

    def _features(self, images: Tensor) -> Tensor:
        features: Tensor = self.encoder(images)
        return features.clamp(-_LARGEST_FLOAT16, _LARGEST_FLOAT16)


def encode_exactly(encoder: DepthEncoder, layouts: Mapping[str, DepthLayout]) -> Callable[[Any], dict[str, Any]]:
    """As `Encode`, of arrays, by the way that is fast in training: what an exported file is held against."""

    def features(images: Tensor) -> Tensor:
        return encoder.encode(images).float().clamp(-_LARGEST_FLOAT16, _LARGEST_FLOAT16)

    def encode(observations: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
        depth = {key: torch.from_numpy(observations[key]) for key in layouts}
        encoded = over_cameras(layouts, depth, features)
        return {**observations, **{key: x.cpu().numpy() for key, x in encoded.items()}}

    return encode


class Standardize(nn.Module):
    """What Stable-Baselines3's `VecNormalize` does: observations less their mean over their deviation, clipped.

    Args:
        statistics: Name, mean, deviation, and the deviations at which it is clipped, one after the other.
    """

    def __init__(self, statistics: Sequence[tuple[str, Any, Any, float]]) -> None:
        super().__init__()
        self.names = [name for name, *_ in statistics]
        self.clips = [clip for *_, clip in statistics]
        for index, (_, mean, deviation, _) in enumerate(statistics):
            self.register_buffer(f"mean{index}", torch.as_tensor(np.asarray(mean, np.float32)))
            self.register_buffer(f"deviation{index}", torch.as_tensor(np.asarray(deviation, np.float32)))

    def forward(self, observations: dict[str, Tensor]) -> dict[str, Tensor]:
        """The observations by name, (B, ...)."""
        observations = dict(observations)
        for index, (name, clip) in enumerate(zip(self.names, self.clips, strict=True)):
            mean, deviation = self.get_buffer(f"mean{index}"), self.get_buffer(f"deviation{index}")
            observations[name] = ((observations[name].float() - mean) / deviation).clamp(-clip, clip)
        return observations


class Bound(nn.Module):
    """Actions of a Box as its environment takes them: scaled from -1 to 1 where the policy's end there, or clipped.

    Args:
        space: The space of actions.
        scaled: Whether the policy's lie from -1 to 1 and stand for the space's bounds.
    """

    low: Tensor
    high: Tensor

    def __init__(self, space: spaces.Box, scaled: bool = False) -> None:
        super().__init__()
        self.scaled = scaled
        self.register_buffer("low", torch.as_tensor(space.low.astype(np.float32)))
        self.register_buffer("high", torch.as_tensor(space.high.astype(np.float32)))

    def forward(self, action: Tensor) -> Tensor:
        """(B, ...) to (B, ...)."""
        action = action.reshape(-1, *self.low.shape)
        if self.scaled:
            return self.low + 0.5 * (action + 1.0) * (self.high - self.low)
        return action.clamp(self.low, self.high)


class WholePolicy(nn.Module):
    """From observations to the action.

    Args:
        names: Of the observations, in the order of the inputs.
        stages: What observations go through before the policy, by the name under which it can be looked at.
        network: The policy: from observations and its memory to what it puts out and its memory.
        bound: From that to actions; None for choices.

    Attributes:
        shows_stages: Whether what every stage gives follows the other outputs, see `stage_names`.
    """

    def __init__(
        self, names: Sequence[str], stages: Mapping[str, nn.Module], network: nn.Module, bound: nn.Module | None
    ) -> None:
        super().__init__()
        self.names = list(names)
        self.stages = nn.ModuleDict(stages)
        self.network, self.bound = copy.deepcopy(network), bound
        self.shows_stages = False
        self.stage_names: list[str] = []
        for part in self.modules():
            if isinstance(part, DepthEncoder):
                part.precision = "float32"
        self.eval().requires_grad_(False)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The observations, then the memory, to the action, then the memory."""
        observations = dict(zip(self.names, inputs, strict=False))
        memory = list(inputs[len(self.names) :])
        shown: dict[str, Tensor] = {}
        for name, stage in self.stages.items():
            before = observations
            observations = stage(observations)
            shown |= {f"{name}.{key}": x for key, x in observations.items() if x is not before[key]}
        output, memory = self.network(observations, memory)
        shown["output"] = output
        action = output if self.bound is None else self.bound(output)
        self.stage_names = list(shown)
        # A name for each output of the graph: two names of one tensor are none.
        extra = [x.clone() for x in shown.values()] if self.shows_stages else []
        return (action, *memory, *extra)


def in_float32(encoder: DepthEncoder) -> DepthEncoder:
    """A copy on the CPU that computes in float32 with PyTorch's operations, whatever the encoder computed in."""
    copied = copy.deepcopy(encoder).cpu().float()
    copied.precision = "float32"
    return copied


def halve(module: nn.Module) -> None:
    """Has the encoders in a module compute in float16; depth is normalized in float32, and features come out in it."""
    for part in module.modules():
        if isinstance(part, DepthEncoder):
            part.net.half()
            part.pools.half()
            part.register_forward_hook(lambda _module, _arguments, features: features.float())
