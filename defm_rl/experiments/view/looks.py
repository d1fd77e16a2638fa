"""What there is to look at of a frame: depth, the three channels, and an encoder's maps as colours and as vectors."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.depth import MEAN, STD, normalize_channels
from defm_rl.encoders import DepthEncoder
from defm_rl.sensors import simulate

Picture = NDArray[np.uint8]

AS_RECORDED = "as recorded"
VECTOR_DIMS = 24  # principal components that similarities are of
_BACKGROUND = 32  # the grey of cells that are no foreground
_SMALLEST_SHARE = 0.03  # of the cells, for two parts to count as foreground and background


@dataclass(frozen=True)
class Cells:
    """One map of one frame.

    Attributes:
        colours: (h, w, 3): the principal components of the foreground, the background dark.
        vectors: (h, w, `VECTOR_DIMS` or fewer) int8: directions, 127 being 1, whose products are cosines.
        cell_px: Height and width of a cell in pixels of the frame.
    """

    colours: Picture
    vectors: NDArray[np.int8]
    cell_px: tuple[float, float]


@dataclass(frozen=True)
class Look:
    """One frame behind one camera.

    Attributes:
        depth: (H, W) float32 metres, holes 0.
        channels: (H, W, 3): what the networks take, from 0 to 255 before it is standardised.
        maps: By level.
    """

    depth: NDArray[np.float32]
    channels: Picture
    maps: dict[str, Cells] = field(default_factory=dict)


def look(
    frames: Sequence[NDArray[np.float32]], sensors: Sequence[str], encoder: DepthEncoder | None, *, seed: int = 0
) -> dict[str, list[Look]]:
    """What there is to look at, by camera: `AS_RECORDED`, then the simulated ones.

    Colours and directions of a map mean the same in all frames behind all cameras: they are of one projection.

    Args:
        frames: Each (H, W) metres, holes 0.
        sensors: Simulated cameras to see the frames with.
        encoder: Whose maps, if any; all levels that it names.
        seed: Of the sensors' noise.
    """
    seen = {AS_RECORDED: list(frames)}
    for sensor in sensors:
        seen[sensor] = [
            simulate(torch.from_numpy(frame)[None], sensor, seed=seed, step=index).numpy()[0]
            for index, frame in enumerate(frames)
        ]
    order = [(camera, index) for camera, some in seen.items() for index in range(len(some))]
    depth = [seen[camera][index] for camera, index in order]
    levels = [] if encoder is None else [name for name in encoder.features if name != "global"]
    maps: list[dict[str, Cells]] = [{} for _ in depth]
    if encoder is not None:
        raw = [_maps(encoder, frame) for frame in depth]
        for level in levels:
            for found, cells in zip(maps, _cells(depth, [of_frame[level] for of_frame in raw]), strict=True):
                found[level] = cells
    looks = [Look(frame, channels(frame), found) for frame, found in zip(depth, maps, strict=True)]
    return {camera: [x for (of, _), x in zip(order, looks, strict=True) if of == camera] for camera in seen}


def channels(depth: NDArray[np.float32]) -> Picture:
    """DeFM's three channels of a frame, from 0 to 255 before they are standardised."""
    standardised = normalize_channels(torch.from_numpy(depth)[None])[0].permute(1, 2, 0).numpy()
    return _bytes(standardised * np.array(STD) + np.array(MEAN))


@torch.no_grad()
def _maps(encoder: DepthEncoder, frame: NDArray[np.float32]) -> dict[str, tuple[Tensor, tuple[float, float]]]:
    """Each map (h, w, C) without its padding, and the pixels of the frame that a cell stands for."""
    height, width = frame.shape
    found = {}
    for level, cells in encoder.maps(frame[None]).maps.items():
        cells = cells[0].float().cpu().permute(1, 2, 0)
        if encoder.card.resized_to is None:
            stride = encoder.card.strides[level]
            cells = cells[: -(-height // stride), : -(-width // stride)]
            found[level] = cells, (float(stride), float(stride))
        else:
            found[level] = cells, (height / cells.shape[0], width / cells.shape[1])
    return found


def _cells(depth: Sequence[NDArray[np.float32]], maps: Sequence[tuple[Tensor, tuple[float, float]]]) -> list[Cells]:
    """Colours and directions of one map of all frames, by one projection."""
    cells = [x.reshape(-1, x.shape[2]).numpy().astype(np.float64) for x, _ in maps]
    near = [_depth_of(frame, (x.shape[0], x.shape[1])) for frame, (x, _) in zip(depth, maps, strict=True)]
    everything, distance = np.concatenate(cells), np.concatenate(near)
    foreground = _foreground(everything, distance)
    mean, axes = _principal(everything[foreground], 3)
    projected = (everything - mean) @ axes.T
    low, high = np.percentile(projected[foreground], (2, 98), axis=0)
    colours = _bytes((projected - low) / np.maximum(high - low, 1e-12))
    colours[~foreground] = _BACKGROUND
    centre, directions = _principal(everything, VECTOR_DIMS)
    vectors = (everything - centre) @ directions.T
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    quantized = np.rint(vectors * 127).astype(np.int8)
    ends = np.cumsum([len(x) for x in cells])[:-1]
    return [
        Cells(of_colours.reshape(*x.shape[:2], 3), of_vectors.reshape(*x.shape[:2], -1), cell_px)
        for of_colours, of_vectors, (x, cell_px) in zip(
            np.split(colours, ends), np.split(quantized, ends), maps, strict=True
        )
    ]


def _foreground(cells: NDArray[np.float64], depth: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which cells are no background, as in DINOv2's pictures: by the first principal component, cut in two.

    DINOv2 takes a side and a threshold by eye. Here Otsu's threshold cuts, and the nearer side is the foreground;
    where one side has next to nothing, all is.
    """
    mean, axes = _principal(cells, 1)
    first = (cells - mean) @ axes[0]
    above = first > otsu(first)
    if not _SMALLEST_SHARE < above.mean() < 1 - _SMALLEST_SHARE:
        return np.ones(len(cells), bool)
    known = depth > 0
    sides = [depth[known & side] for side in (above, ~above)]
    if not all(len(side) for side in sides):
        return above if len(sides[0]) else ~above
    return above if np.median(sides[0]) < np.median(sides[1]) else ~above


def otsu(values: NDArray[np.float64], bins: int = 64) -> float:
    """The threshold with the largest variance between the two sides (Otsu 1979)."""
    counts, edges = np.histogram(values, bins)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * middles)
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        between = below * above * (sums / below - (sums[-1] - sums) / above) ** 2
    return float(edges[1:][np.nanargmax(np.where((below > 0) & (above > 0), between, -1.0))])


def _principal(cells: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The mean and the first principal axes of (n, C) cells, each axis with the sign that makes its sum positive."""
    mean = cells.mean(axis=0)
    centred = cells - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, np.argsort(values)[::-1][:count]].T
    return mean, axes * np.where(axes.sum(axis=1, keepdims=True) < 0, -1.0, 1.0)


def _depth_of(frame: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float64]:
    """The mean depth of each cell's pixels that are no holes; 0 where there are none."""
    depth = torch.from_numpy(frame)[None, None]
    total, share = (F.adaptive_avg_pool2d(x, size).flatten() for x in (depth, (depth > 0).float()))
    return torch.where(share > 0, total / share.clamp(min=1e-6), 0.0).numpy().astype(np.float64)


def _bytes(values: NDArray[np.floating]) -> Picture:
    return (np.clip(values, 0, 1) * 255).round().astype(np.uint8)
