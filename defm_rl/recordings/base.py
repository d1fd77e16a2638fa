"""What the readers of recorded depth share: parts of a recording, and what can be wrong with them."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from defm_rl.depth import Unit

SHOWN = 4  # frames of a recording that are kept as they were recorded

Items = TypeVar("Items", bound=Sequence[Any] | NDArray[Any])


class RecordingError(ValueError):
    """Recorded depth that is not there or cannot be read, with what to do about it."""


@dataclass(frozen=True)
class Part:
    """Frames that are read together: a file, an episode, a topic of a bag.

    Attributes:
        name: For people: the file's path, with what is read of it where it holds more.
        read: Reads them as they were recorded, at most so many, evenly spread (None: all): arrays (N, H, W), each of
            frames of one size.
        unit: Of the numbers, where the source says so: "m", "mm", or the metres of one count. None where their type has
            to tell.
    """

    name: str
    read: Callable[[int | None], Sequence[NDArray[Any]]]
    unit: Unit | None = None


class Frame(NamedTuple):
    """One recorded frame.

    Attributes:
        depth: (H, W) float32 metres, holes 0.
        name: Where it is from: the part's name, and its number among those read of it.
    """

    depth: NDArray[np.float32]
    name: str


@dataclass(frozen=True)
class Recording:
    """Depth frames from real cameras.

    Attributes:
        frames: (N, H, W) float32 metres, holes 0.
        files: How many parts (files, episodes, topics) they come from.
        problems: What was wrong with the parts that were left out; each names its part, or the first of those alike.
        originals: Up to `SHOWN` of the frames as they were recorded, each (H', W') float32 metres, to be looked at.
    """

    frames: NDArray[np.float32]
    files: int
    problems: list[str]
    originals: list[NDArray[np.float32]] = field(default_factory=list)


def spread(items: Items, limit: int | None) -> Items:
    """At most `limit` of the items, evenly spread."""
    if limit is None or len(items) <= limit:
        return items
    chosen = spread_indices(len(items), limit)
    return [items[index] for index in chosen] if isinstance(items, list) else items[chosen]  # type: ignore


def spread_indices(count: int, limit: int | None) -> list[int]:
    """The indices of at most `limit` of so many items, evenly spread."""
    if limit is None or count <= limit:
        return list(range(count))
    return [int(index) for index in np.linspace(0, count - 1, limit).round()]


def needed(module: str, what: str) -> Any:
    """A module of the extra [recordings].

    Raises:
        RecordingError: Where it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise RecordingError(f"{what} needs {package} ({error}): pip install 'defm-rl[recordings]'") from error


def below(folder: Path, *patterns: str) -> list[Path]:
    """The files below a folder that match one of the patterns, by name."""
    return sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
