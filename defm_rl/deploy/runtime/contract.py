"""What an exported policy takes, gives and was trained with, and how its file keeps that."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from defm_rl.deploy.runtime.frames import Camera

_Part = TypeVar("_Part")

VERSION = 2
"""Of the contract: 2 says what the task's simulator gave (`DepthInput.sent`, `near_m`). A new field is a new version: a
runtime that does not know it would not do what it asks for."""

READABLE = (1, 2)
"""Versions whose fields mean what they mean in this one."""

CONTRACT_KEY = "defm_rl.contract"
SEAL_KEY = "defm_rl.sha256"
_DIGITS = 64  # of a sha256


@dataclass(frozen=True)
class DepthInput:
    """A depth camera's input.

    Attributes:
        name: Of the observation, and of the graph's input.
        shape: Of one observation, without the batch axis.
        height: Of a frame, in pixels.
        width: Of a frame.
        unit: What the graph takes: "m", "mm", or metres per count as text.
        metres_per_count: The same as a number.
        dtype: What the graph takes: float32, whatever the unit.
        frames: Stacked frames.
        channels_last: Whether the frames are stacked along the last axis.
        camera: That of the training, where it is known.
        far_m: What the camera of the training sees at the farthest, where it is known; the far plane of a z-buffer.
        max_depth_m: Beyond it a pixel is a hole to the policy; None for no limit.
        invalid: What an invalid pixel is.
        sent: What the task's simulator gave, and the runtime expects where it is told of no other unit: "m", "mm",
            metres per count as text, or `Z_BUFFER`; empty for what the graph takes.
        near_m: The near plane of a z-buffer.
    """

    name: str
    shape: tuple[int, ...]
    height: int
    width: int
    unit: str = "m"
    metres_per_count: float = 1.0
    dtype: str = "float32"
    frames: int = 1
    channels_last: bool = False
    camera: Camera | None = None
    far_m: float | None = None
    max_depth_m: float | None = None
    invalid: str = "0, negative values, NaN, infinities, and the largest value of an integer type"
    sent: str = ""
    near_m: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame."""
        return self.height, self.width


@dataclass(frozen=True)
class VectorInput:
    """A vector of numbers.

    Attributes:
        name: Of the observation, and of the graph's input.
        shape: Of one observation, without the batch axis.
        dtype: "float32", or "int64" for a choice.
        entries: What stands in which place, where it is known.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    entries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Memory:
    """A part of a recurrent policy's state: the graph's input NAME_in and its output NAME_out, zeros at first.

    Attributes:
        name: Its name.
        shape: (layers, size); the batch axis stands between them.
    """

    name: str
    shape: tuple[int, int]


@dataclass(frozen=True)
class Action:
    """What comes out.

    Attributes:
        shape: Of one action; empty for one choice.
        dtype: "float32", or "int64" for choices.
        low: Least value of each entry, to which the graph clips; empty for choices, and where there is no bound.
        high: Largest value of each entry.
        entries: What each entry commands, where it is known.
        units: The unit of each entry's command.
        scale: An entry's command is `offset + scale * action`: the environment of the training did that, the graph
            does not. Empty where it is not known.
        offset: See `scale`.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    entries: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    scale: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()


@dataclass(frozen=True)
class Contract:
    """All that a robot has to know of an exported policy.

    Attributes:
        depth: The depth cameras.
        vectors: The other observations.
        action: What comes out.
        memory: The recurrent state; empty where nothing is remembered.
        step_s: Seconds between two actions in the training, where they are known.
        sensor: The sensor profile trained with, and its latency and frame rate.
        precision: "float32", "float16" or "int8".
        made_by: Run, commit, versions, the encoder and its weights' sha256.
        checked: Against how many frames the file was held when it was made, and the largest difference.
        version: Of the contract.
    """

    depth: tuple[DepthInput, ...]
    vectors: tuple[VectorInput, ...]
    action: Action
    memory: tuple[Memory, ...] = ()
    step_s: float | None = None
    sensor: dict[str, Any] = field(default_factory=dict)
    precision: str = "float32"
    made_by: dict[str, Any] = field(default_factory=dict)
    checked: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @property
    def inputs(self) -> tuple[DepthInput | VectorInput, ...]:
        """All observations, in the order of the graph's inputs."""
        return (*self.depth, *self.vectors)

    def to_dict(self) -> dict[str, Any]:
        """Lists, numbers and text only."""
        plain: dict[str, Any] = json.loads(self.to_json())
        return plain

    def to_json(self) -> str:
        """As it stands in the file."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Contract":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: For a contract of another version, or one with entries that this runtime does not know.
        """
        plain = json.loads(text)
        maker = plain.get("made_by", {}).get("versions", {}).get("defm-rl", "unknown")
        remedy = f"export the policy again with the installed defm-rl, or install the version that made it ({maker})"
        if plain.get("version") not in READABLE:
            raise ValueError(
                f"its contract is of version {plain.get('version')}, and this runtime reads "
                f"{' and '.join(map(str, READABLE))}: {remedy}"
            )
        try:
            plain["depth"] = tuple(_depth_input(x) for x in plain["depth"])
            plain["vectors"] = tuple(_read(VectorInput, x) for x in plain["vectors"])
            plain["action"] = _read(Action, plain["action"])
            plain["memory"] = tuple(_read(Memory, x) for x in plain["memory"])
            return _read(cls, plain)
        except (KeyError, TypeError) as error:
            raise ValueError(f"its contract is not one that this runtime knows ({error}): {remedy}") from error


def _read(kind: type[_Part], plain: dict[str, Any]) -> _Part:
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()})


def _depth_input(plain: dict[str, Any]) -> DepthInput:
    camera = plain.pop("camera")
    return _read(DepthInput, {**plain, "camera": None if camera is None else Camera(**camera)})


def seal(model: bytes) -> bytes:
    """An ONNX file with the sha256 of all that stands before it as its last entry of metadata.

    Protocol buffers put together one after the other are one: the entry is appended as field 14 of ONNX's ModelProto,
    `metadata_props`, and says whether a single byte before it was changed, without any library to parse it.
    """
    return model + _seal_of(model)


def sealed(path: Path) -> bytes:
    """The file's content.

    Raises:
        ValueError: Where the seal is missing or does not fit.
        FileNotFoundError: Where there is no file.
    """
    content = path.read_bytes()
    length = len(_seal_of(b""))
    body, tail = content[:-length], content[-length:]
    if tail[:-_DIGITS] != _seal_of(b"")[:-_DIGITS]:
        raise ValueError(
            f"{path} does not end with the sha256 that `defm-rl export` puts there: it was cut off on its way, saved "
            "again by another tool, or was never made by it. Copy it again, or export the policy again."
        )
    if tail != _seal_of(body):
        raise ValueError(
            f"{path} is not what `defm-rl export` wrote: its content and the sha256 at its end differ. It was edited "
            "or damaged since. Copy it again, or export the policy again."
        )
    return content


def _seal_of(model: bytes) -> bytes:
    key, value = SEAL_KEY.encode(), hashlib.sha256(model).hexdigest().encode()
    # Fields 1 and 2 of StringStringEntryProto, in field 14 of ModelProto; all lengths fit into a byte.
    entry = bytes([0x0A, len(key)]) + key + bytes([0x12, len(value)]) + value
    return bytes([0x72, len(entry)]) + entry
