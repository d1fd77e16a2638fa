"""Depth with labels: folders, Hugging Face datasets, and which of their frames are held out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from defm_rl.depth import Unit
from defm_rl.probes.features import Frames
from defm_rl.probes.segmentation import IGNORED
from defm_rl.recordings import RecordingError, huggingface, read_frames, spread
from defm_rl.recordings.files import depth_files
from defm_rl.recordings.loading import as_metres, fitted, shares

TEST_SHARE = 0.3
_TRAIN, _TEST = ("train",), ("test", "validation", "val")
_DEPTH, _MASKS = "depth", "masks"

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LabelledDepth:
    """Frames with what is on them.

    Attributes:
        name: Of the task, for tables.
        frames: N frames, (H, W) metres each, holes 0; of one size where there are masks.
        classes: Names of the classes.
        test: (N,) booleans: which frames are held out.
        labels: (N,) classes of the frames; None where pixels have classes.
        masks: (N, H, W) classes of the pixels, or `IGNORED`; None where frames have classes.
        problems: What could not be read.
    """

    name: str
    frames: Frames
    classes: tuple[str, ...]
    test: NDArray[np.bool_]
    labels: Ints | None = None
    masks: NDArray[np.uint8] | None = None
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for what, some in (("learn from", ~self.test), ("test on", self.test)):
            if not some.any():
                raise RecordingError(f"{self.name} has no frames to {what}.")
        if len(self.classes) < 2:
            raise RecordingError(f"{self.name} has a single class, {self.classes[0]}: there is nothing to tell apart.")


def held_out(labels: Ints, groups: Ints, share: float = TEST_SHARE, *, seed: int = 0) -> NDArray[np.bool_]:
    """Which frames are held out: of each class about a share of its groups, whole ones.

    Frames of one recording are alike, so that a split among them would measure memory. A class with a single group
    gives its last frames.

    Args:
        labels: (N,) classes.
        groups: (N,) which frames belong together, such as those of one file.
        share: Of the frames.
        seed: Of the draw.
    """
    test = np.zeros(len(labels), bool)
    rng = np.random.default_rng(seed)
    for label in np.unique(labels):
        mine = np.flatnonzero(labels == label)
        wanted = max(1, round(share * len(mine))) if len(mine) > 1 else 0
        of_class = rng.permutation(np.unique(groups[mine]))
        if len(of_class) == 1:
            test[mine[len(mine) - wanted :]] = True
            continue
        for group in of_class[:-1]:  # one is left to learn from
            if test[mine].sum() >= wanted:
                break
            test[mine[groups[mine] == group]] = True
    return test


def read_folder(
    folder: Path,
    *,
    unit: Unit | None = None,
    max_depth_m: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> LabelledDepth:
    """Labelled depth in a folder.

    One subfolder for each class holds its frames: PNG, TIFF, NPY, NPZ. Or `depth/` holds frames, and `masks/` for each
    a PNG of the same name with the class of every pixel, 255 where there is none. Where `train/` and one of `test/`,
    `val/` and `validation/` are there, each in this form, they are the split; else `held_out` makes one, files staying
    whole.

    Args:
        folder: The folder.
        unit: See `defm_rl.recordings.load_recording`.
        max_depth_m: See there.
        limit: No more frames than this, evenly spread over the classes and their files, but two of each class.
        seed: Of the split.

    Raises:
        RecordingError: Where it is not of this form, or a file cannot be read.
    """
    train = _first_folder(folder, _TRAIN)
    test = _first_folder(folder, _TEST)
    if train is not None and test is not None:
        parts = [_read_part(part, unit, max_depth_m, None if limit is None else limit // 2) for part in (train, test)]
        # Classes of pixels are numbers, of which a split need not hold the highest.
        if any(part.masks is None for part in parts) and parts[0].classes != parts[1].classes:
            odd = ", ".join(sorted(set(parts[0].classes) ^ set(parts[1].classes)))
            raise RecordingError(f"{train} and {test} must have the same classes; only one of them has {odd}.")
        return _joined(folder.name, parts[0], parts[1])
    part = _read_part(folder, unit, max_depth_m, limit)
    labels = part.labels if part.masks is None else np.zeros(len(part.frames), np.int64)
    return _as_labelled(folder.name, part, held_out(labels, part.groups, seed=seed))


@dataclass(frozen=True)
class _Part:
    frames: Frames
    classes: tuple[str, ...]
    labels: Ints
    groups: Ints
    masks: NDArray[np.uint8] | None = None


def _first_folder(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).is_dir()), None)


def _read_part(folder: Path, unit: Unit | None, max_depth_m: float | None, limit: int | None) -> _Part:
    if (folder / _DEPTH).is_dir() and (folder / _MASKS).is_dir():
        return _read_masks(folder, unit, max_depth_m, limit)
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    if not classes:
        raise RecordingError(
            f"{folder} holds no labelled depth: expected one subfolder of frames for each class, or depth/ and masks/."
        )
    share = None if limit is None else max(2, limit // len(classes))
    frames: list[NDArray[np.float32]] = []
    labels: list[int] = []
    groups: list[int] = []
    for label, place in enumerate(classes):
        files = spread(depth_files(place), share)
        for file, count in zip(files, shares(share, len(files)), strict=True):
            found = [frame.depth for frame in read_frames(file, unit=unit, max_depth_m=max_depth_m, limit=count)]
            frames += found
            labels += [label] * len(found)
            groups += [groups[-1] + 1 if groups else 0] * len(found)
    return _Part(frames, tuple(place.name for place in classes), np.array(labels), np.array(groups))


def _read_masks(folder: Path, unit: Unit | None, max_depth_m: float | None, limit: int | None) -> _Part:
    files = spread(depth_files(folder / _DEPTH), limit)
    frames, masks = [], []
    size: tuple[int, int] | None = None
    for file in files:
        mask = folder / _MASKS / f"{file.stem}.png"
        if not mask.is_file():
            raise RecordingError(f"{file} has no mask {mask}.")
        (depth,) = (frame.depth for frame in read_frames(file, unit=unit, max_depth_m=max_depth_m, limit=1))
        (numbers,) = (part for part in _numbers(mask))
        if numbers.shape != depth.shape:
            raise RecordingError(f"{mask} is {numbers.shape}, and its depth {depth.shape}: expected the same size.")
        size = size or depth.shape
        frames.append(fitted(depth[None], size)[0])
        masks.append(fitted(numbers[None], size)[0])
    stacked = np.stack(masks)
    numbers_of = np.arange(len(frames))
    return _Part(np.stack(frames), _pixel_classes(stacked), np.zeros(len(frames), np.int64), numbers_of, stacked)


def _numbers(mask: Path) -> list[NDArray[np.uint8]]:
    from defm_rl.recordings.files import read

    return [_as_mask(image, str(mask)) for image in read(mask)]


def _as_mask(numbers: NDArray[np.integer], name: str) -> NDArray[np.uint8]:
    if numbers.dtype.kind not in "iu" or int(numbers.max()) > IGNORED:
        raise RecordingError(f"{name}: masks hold classes from 0 to 254, or {IGNORED}; got {numbers.dtype}.")
    return numbers.astype(np.uint8)


def _pixel_classes(masks: NDArray[np.uint8]) -> tuple[str, ...]:
    known = masks[masks != IGNORED]
    return tuple(str(index) for index in range(int(known.max()) + 1 if len(known) else 1))


def _joined(name: str, train: _Part, test: _Part) -> LabelledDepth:
    frames = [*train.frames, *test.frames]
    held = np.repeat([False, True], [len(train.frames), len(test.frames)])
    masks = None
    if train.masks is not None and test.masks is not None:
        size = (train.masks.shape[1], train.masks.shape[2])
        masks = np.concatenate([train.masks, fitted(test.masks, size)])
        frames = [fitted(frame[None], size)[0] for frame in frames]
    classes = max(train.classes, test.classes, key=len)  # numbered ones differ where a split lacks the highest
    part = _Part(frames, classes, np.concatenate([train.labels, test.labels]), np.arange(len(frames)), masks)
    return _as_labelled(name, part, held)


def _as_labelled(name: str, part: _Part, test: NDArray[np.bool_]) -> LabelledDepth:
    if part.masks is None:
        return LabelledDepth(name, part.frames, part.classes, test, labels=part.labels)
    return LabelledDepth(name, part.frames, _pixel_classes(part.masks), test, masks=part.masks)


def read_dataset(
    source: str,
    *,
    unit: Unit | None = None,
    max_depth_m: float | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> LabelledDepth:
    """A Hugging Face dataset with the columns depth and label, such as DeFM's published benchmarks.

    Labels are classes or, where they are images, masks. The splits train and test or validation are taken where they
    are there; else `held_out` makes a split.

    Args:
        source: See `defm_rl.recordings.find_parts`.
        unit: See `defm_rl.recordings.load_recording`: of the ImageNet benchmark "inverse".
        max_depth_m: See there.
        limit: No more frames than this, evenly spread.
        seed: Of the split.

    Raises:
        RecordingError: Where it cannot be had, or has other columns.
    """
    splits = huggingface.load(source)
    for split, data in splits.items():
        if huggingface.LABEL not in data.column_names:
            raise RecordingError(f"{source}, split {split}, has no column 'label'; got {', '.join(data.column_names)}.")
    train = next((name for name in _TRAIN if name in splits), next(iter(splits)))
    test = next((name for name in _TEST if name in splits and name != train), None)
    share = None if limit is None else limit // 2 if test else limit
    parts = [_read_split(splits[split], unit, max_depth_m, share) for split in (train, test) if split is not None]
    name = source.rstrip("/").rpartition("/")[2]
    if len(parts) == 2:
        return _joined(name, *parts)
    part = parts[0]
    return _as_labelled(name, part, held_out(part.labels, part.groups, seed=seed))


def _read_split(data: object, unit: Unit | None, max_depth_m: float | None, limit: int | None) -> _Part:
    frames, labels = [], []
    for row in huggingface.rows(data, limit):
        frames.append(as_metres(row.counts[None], unit, max_depth_m)[0])
        labels.append(row.label)
    if isinstance(labels[0], np.ndarray):
        size = frames[0].shape
        masks = np.stack([fitted(_as_mask(mask, "label")[None], size)[0] for mask in labels])  # type: ignore
        frames = [fitted(frame[None], size)[0] for frame in frames]
        zeros = np.zeros(len(frames), np.int64)
        return _Part(frames, _pixel_classes(masks), zeros, np.arange(len(frames)), masks)
    numbers = np.array(labels, np.int64)
    names = huggingface.class_names(data) or [str(index) for index in range(int(numbers.max()) + 1)]
    return _Part(frames, tuple(names), numbers, np.arange(len(frames)))
