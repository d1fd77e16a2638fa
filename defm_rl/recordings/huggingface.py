"""Depth in Hugging Face datasets: a column depth and, where there is one, a column label.

DeFM's published benchmarks are such datasets (`leggedrobotics/defm-bench-*`), with 16-bit PNG as depth; labels are
classes or, where they are images, masks.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from defm_rl.recordings import files
from defm_rl.recordings.base import Part, RecordingError, below, needed, spread_indices

_HUB = "hf://"
DEPTH, LABEL = "depth", "label"


class Labelled(NamedTuple):
    """A row as it was recorded.

    Attributes:
        counts: (H, W) numbers.
        label: A class, or a mask (H, W) of classes; None where the dataset has no labels.
    """

    counts: NDArray[Any]
    label: int | NDArray[Any] | None


def is_hub(source: str) -> bool:
    """Whether this names a dataset on the Hub."""
    return source.startswith(_HUB)


def reads(path: Path) -> bool:
    """Whether this is a dataset's folder."""
    saved = any((path / name).is_file() for name in ("dataset_dict.json", "state.json"))
    return saved or (path.is_dir() and bool(below(path, "*.parquet", "data/*.parquet")))


def parts(source: str, split: str | None) -> list[Part]:
    """A part for each split, or for the one that is named."""
    splits = load(source)
    if split is not None and split not in splits:
        raise RecordingError(f"recorded={source} has no split {split!r}; there is: {', '.join(splits)}.")
    return [
        Part(f"{source}#{name}", lambda limit, data=data: [row.counts[None] for row in rows(data, limit)])  # type: ignore
        for name, data in splits.items()
        if split in (None, name)
    ]


def load(source: str) -> dict[str, Any]:
    """The dataset's splits by name, each a `datasets.Dataset`.

    Raises:
        RecordingError: Where it cannot be had, or has no column depth.
    """
    datasets = needed("datasets", "reading Hugging Face datasets")
    try:
        if is_hub(source):
            found = datasets.load_dataset(source.removeprefix(_HUB))
        elif (Path(source) / "dataset_dict.json").is_file() or (Path(source) / "state.json").is_file():
            found = datasets.load_from_disk(source)
        else:
            found = datasets.load_dataset(source)
    except Exception as error:  # of the Hub, of Arrow, of the file system: each has its own
        raise RecordingError(f"recorded={source} cannot be had ({type(error).__name__}: {error}).") from error
    splits = dict(found) if isinstance(found, dict) else {str(found.split or "all"): found}
    for name, data in splits.items():
        if DEPTH not in data.column_names:
            columns = ", ".join(data.column_names)
            raise RecordingError(f"recorded={source}, split {name}: expected a column {DEPTH!r}, got {columns}.")
    return splits


def rows(data: Any, limit: int | None = None) -> Iterator[Labelled]:
    """At most so many rows of a split, evenly spread."""
    data = data.select_columns([name for name in (DEPTH, LABEL) if name in data.column_names])
    for index in spread_indices(len(data), limit):
        row = data[index]
        label = row.get(LABEL)
        if label is not None and not isinstance(label, int):
            label = files.one_channel(np.asarray(label))
        yield Labelled(files.one_channel(np.asarray(row[DEPTH])), label)


def class_names(data: Any) -> list[str] | None:
    """The names of a split's classes, where it says them."""
    names = getattr(data.features.get(LABEL), "names", None)
    return None if names is None else list(names)
