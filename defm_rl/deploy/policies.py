"""What is exported: a policy's network, what stands before it, and the policy itself to hold it against."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from defm_rl.deploy.graph import Encode, Standardize, WholePolicy
from defm_rl.deploy.runtime.contract import Action, Contract, DepthInput, Memory, VectorInput
from defm_rl.deploy.runtime.frames import Z_BUFFER, Camera
from defm_rl.depth import MAX_DEPTH_M, DepthFormat, ZBuffer
from defm_rl.encoders import DepthEncoder
from defm_rl.observations import DepthLayout

Recording = Sequence[Mapping[str, NDArray[Any]]]
"""Batches of observations (B, ...) by name, as the environment gives them, step after step."""


class ExportError(ValueError):
    """What cannot be exported, and what can be done about it."""


@dataclass(frozen=True)
class Given:
    """How a task's simulator gives depth that becomes metres on its way to the policy.

    Attributes:
        depth_format: Unit, and the limit beyond which there are holes.
        z_buffer: The planes, where it is a z-buffer.
    """

    depth_format: DepthFormat = field(default_factory=DepthFormat)
    z_buffer: ZBuffer | None = None


@dataclass
class Facts:
    """What a policy cannot say of itself, for its contract.

    Attributes:
        step_s: Seconds between two actions.
        cameras: Those of the training, by the name of their observation.
        given: What the runtime is sent where nobody says otherwise, by the same name. Default: what the policy takes.
        entries: What stands where in a vector, by its name; of the action under "action".
        units: The unit of each entry of the action.
        scale: See `Action`.
        offset: See `Action`.
        sensor: The sensor profile, its latency and frame rate.
        made_by: Run, commit, versions.
    """

    step_s: float | None = None
    cameras: Mapping[str, Camera] = field(default_factory=dict)
    given: Mapping[str, Given] = field(default_factory=dict)
    entries: Mapping[str, Sequence[str]] = field(default_factory=dict)
    units: Sequence[str] = ()
    scale: Sequence[float] = ()
    offset: Sequence[float] = ()
    sensor: Mapping[str, Any] = field(default_factory=dict)
    made_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Exportable:
    """A policy as exporters see it.

    Attributes:
        space: Of one observation before anything is encoded, by name.
        action_space: Of one action.
        network: From observations as the policy sees them, and its memory, to its output and its memory.
        bound: See `WholePolicy`.
        memory: Names and shapes (layers, size) of its memory.
        layouts: The depth among the observations.
        depth_format: Unit and limit of that depth.
        encoder: That which encodes it before the policy, where there is one.
        encoded: What it encodes.
        statistics: See `Standardize`.
        weights: Of the encoder, inside or before: its name, sha256 and what of it was trained.
        act: The policy as it is, of a batch of observations, once per step and in their order.
        reset: Has it begin new episodes.
        record: Gathers observations of the task with the policy acting; None where there is no environment.
    """

    space: Mapping[str, spaces.Space[Any]]
    action_space: spaces.Space[Any]
    network: nn.Module
    bound: nn.Module | None
    layouts: Mapping[str, DepthLayout]
    act: Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
    reset: Callable[[], None]
    depth_format: DepthFormat = field(default_factory=DepthFormat)
    memory: Sequence[tuple[str, tuple[int, int]]] = ()
    encoder: DepthEncoder | None = None
    encoded: Sequence[str] = ()
    statistics: Sequence[tuple[str, Any, Any, float]] = ()
    weights: Mapping[str, Any] = field(default_factory=dict)
    record: Callable[[int], Recording] | None = None

    def graph(self) -> WholePolicy:
        """The whole as one module."""
        stages: dict[str, nn.Module] = {}
        if self.encoder is not None:
            stages["features"] = Encode(self.encoder, {key: self.layouts[key] for key in self.encoded})
        if self.statistics:
            stages["standardized"] = Standardize(self.statistics)
        return WholePolicy(self.names, stages, self.network, self.bound)

    @property
    def in_float32(self) -> bool:
        """Whether the policy itself computes in float32, so that a file can be held against it."""
        inside = (part for part in self.network.modules() if isinstance(part, DepthEncoder))
        return all(part.precision == "float32" for part in inside)

    @property
    def names(self) -> list[str]:
        """Of the observations: depth first."""
        return [*self.layouts, *(name for name in self.space if name not in self.layouts)]

    def contract(self, facts: Facts, precision: str) -> Contract:
        """What the file says of itself."""
        depth = tuple(self._depth_input(name, facts) for name in self.layouts)
        vectors = tuple(
            VectorInput(name, *_vector(self.space[name], name), _entries(facts, name, self.space[name]))
            for name in self.names
            if name not in self.layouts
        )
        unknown = set(facts.entries) - {*self.names, "action"} | set(facts.cameras) - set(self.layouts)
        if unknown:
            raise ExportError(f"The policy sees {', '.join(self.names)}; {', '.join(sorted(unknown))} is none of it.")
        return Contract(
            depth=depth,
            vectors=vectors,
            action=_action(self.action_space, facts),
            memory=tuple(Memory(name, shape) for name, shape in self.memory),
            step_s=facts.step_s,
            sensor=dict(facts.sensor),
            precision=precision,
            made_by={**facts.made_by, "encoder": dict(self.weights)},
        )

    def inputs(self, observations: Mapping[str, NDArray[Any]]) -> list[torch.Tensor]:
        """A batch of observations as the graph takes it."""
        return [torch.from_numpy(array) for array in self.arrays(observations).values()]

    def arrays(self, observations: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """The same as arrays: floats in float32, counts of depth too, choices in int64."""
        arrays = {}
        for name in self.names:
            given = np.asarray(observations[name])
            is_depth = name in self.layouts
            if is_depth and given.dtype.kind in "iu":  # a hole to the policy, and a number like any other in float32
                given = np.where(given == np.iinfo(given.dtype).max, 0, given)
            dtype = "float32" if is_depth else _vector(self.space[name], name)[1]
            arrays[name] = np.ascontiguousarray(given, dtype=dtype)
        return arrays

    def zeros(self, batch: int) -> list[torch.Tensor]:
        """A memory that has seen nothing."""
        return [torch.zeros(layers, batch, size) for _, (layers, size) in self.memory]

    def _depth_input(self, name: str, facts: Facts) -> DepthInput:
        layout, box = self.layouts[name], self.space[name]
        assert isinstance(box, spaces.Box)
        depth_format = self.depth_format
        far_m = float(np.max(box.high)) * depth_format.metres_per_count
        camera = facts.cameras.get(name)
        if camera is not None and (camera.height, camera.width) != layout.size:
            raise ExportError(
                f"The camera of {name} has {camera.height}x{camera.width} pixels, the policy sees {layout.size}."
            )
        given = facts.given.get(name, Given(depth_format))
        limits_m = [x.max_depth_m for x in (depth_format, given.depth_format) if x.max_depth_m is not None]
        planes = given.z_buffer
        if planes is not None:
            far_m = planes.far_m
        elif name in facts.given and far_m >= MAX_DEPTH_M:
            far_m = np.inf  # the limit of this library, where a task of others says nothing
        return DepthInput(
            name=name,
            shape=tuple(box.shape),
            height=layout.height,
            width=layout.width,
            unit=str(depth_format.unit),
            metres_per_count=depth_format.metres_per_count,
            frames=layout.frames,
            channels_last=layout.channels_last,
            camera=camera,
            far_m=far_m if np.isfinite(far_m) else None,
            max_depth_m=min(limits_m, default=None),
            sent=Z_BUFFER if planes is not None else str(given.depth_format.unit),
            near_m=None if planes is None else planes.near_m,
        )


def _vector(space: spaces.Space[Any], name: str) -> tuple[tuple[int, ...], str]:
    if isinstance(space, spaces.Box):
        return tuple(space.shape), "float32"
    if isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return tuple(space.shape or ()), "int64"
    raise ExportError(f"{name} is {space}, which no policy here takes.")


def _entries(facts: Facts, name: str, space: spaces.Space[Any]) -> tuple[str, ...]:
    entries = tuple(facts.entries.get(name, ()))
    count = int(np.prod(space.shape or ()))
    if entries and len(entries) != count:
        raise ExportError(f"{name} has {count} entries, and {len(entries)} names were given for them.")
    return entries


def _action(space: spaces.Space[Any], facts: Facts) -> Action:
    entries = () if isinstance(space, spaces.Discrete) else _entries(facts, "action", space)
    action = Action(tuple(space.shape or ()), "int64", entries=entries, units=tuple(facts.units))
    if not isinstance(space, spaces.Box):
        return action
    if np.isfinite(space.low).all() and np.isfinite(space.high).all():
        low, high = (tuple(map(float, bound.ravel())) for bound in (space.low, space.high))
        action = replace(action, low=low, high=high)
    scale, offset = (tuple(map(float, numbers)) for numbers in (facts.scale, facts.offset))
    return replace(action, dtype="float32", scale=scale, offset=offset)


def about(encoder: nn.Module | None) -> dict[str, Any]:
    """What the contract says of an encoder."""
    if not isinstance(encoder, DepthEncoder):
        return {}
    info = encoder.provenance
    return {
        "name": encoder.encoder_name,
        "weights": info.source,
        "sha256": info.sha256,
        "features": list(encoder.features),
        "trained": list(encoder.trainable),
    }
