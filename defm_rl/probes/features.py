"""Features of labelled frames, encoded once and kept on disk by the sha256 of all that they depend on."""

import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from defm_rl.encoders import DepthEncoder

Frames = Sequence[NDArray[np.float32]] | NDArray[np.float32]
"""Depth of single frames, each (H, W) metres with holes 0, which may be of several sizes; or an array (N, H, W)."""

_CHUNK = 64  # frames that are encoded at once
_FORMAT = 1  # of what is kept: another number leaves earlier files alone


@dataclass(frozen=True)
class Maps:
    """Maps of frames, all levels resized to the finest and side by side.

    Attributes:
        cells: (N, C, h, w) float16.
        covered: Which share of the maps' height and width the images take, from their upper left corner: the rest is of
            padding.
    """

    cells: Tensor
    covered: tuple[float, float]

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, index: Tensor) -> "Maps":
        return Maps(self.cells[index], self.covered)


def default_cache() -> Path:
    """Where features are kept: `$XDG_CACHE_HOME/defm_rl/features`, or `~/.cache/defm_rl/features`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "defm_rl" / "features"


def encode_frames(encoder: DepthEncoder, frames: Frames, *, cache: Path | None = None) -> Tensor:
    """Feature vectors of frames, which may be of different sizes.

    Args:
        encoder: Whose, frozen.
        frames: N of them.
        cache: A folder to keep them in and to take them from; None for neither.

    Returns:
        (N, D) float32 on the CPU.
    """

    def encode() -> dict[str, Tensor]:
        found: list[Tensor | None] = [None] * len(frames)
        for index in _alike(frames):
            features = encoder.encode(np.stack([frames[i] for i in index])).float().cpu()
            for i, feature in zip(index, features, strict=True):
                found[i] = feature
        return {"features": torch.stack([feature for feature in found if feature is not None])}

    return _kept(cache, _key(encoder, encoder.feature_settings, frames), encode)["features"]


def encode_maps(encoder: DepthEncoder, frames: Frames, *, cache: Path | None = None) -> Maps:
    """The maps that an encoder's features name, or all it has, of frames of one size.

    Args:
        encoder: Whose, frozen.
        frames: N of them, all (H, W).
        cache: See `encode_frames`.

    Raises:
        ValueError: For an encoder without maps.
    """
    levels = [name for name in encoder.features if name != "global"]
    if not levels:
        raise ValueError(f"{encoder.encoder_name} was made for global features: name its maps by features=.")
    size = encoder.size or frames[0].shape

    def encode() -> dict[str, Tensor]:
        parts = []
        for start in range(0, len(frames), _CHUNK):
            with torch.no_grad():
                maps = encoder.maps(np.stack([*frames[start : start + _CHUNK]])).maps
            finest = maps[levels[0]].shape[2:]
            resized = [F.interpolate(maps[x].float(), finest, mode="bilinear", align_corners=False) for x in levels]
            parts.append(torch.cat(resized, dim=1).half().cpu())
        return {"cells": torch.cat(parts).contiguous()}

    cells = _kept(cache, _key(encoder, f"maps={'+'.join(levels)} bifpn={encoder.bifpn}", frames), encode)["cells"]
    if encoder.card.resized_to is not None:
        return Maps(cells, (1.0, 1.0))
    stride = encoder.card.strides[levels[0]]
    height, width = (side / (count * stride) for side, count in zip(size, cells.shape[2:], strict=True))
    return Maps(cells, (min(height, 1.0), min(width, 1.0)))


def sha256_of(frames: Frames) -> str:
    """Of frames' sizes and values."""
    digest = hashlib.sha256()
    for frame in frames:
        digest.update(str(frame.shape).encode())
        digest.update(np.ascontiguousarray(frame, np.float32).tobytes())
    return digest.hexdigest()


def _key(encoder: DepthEncoder, what: str, frames: Frames) -> str:
    """Of weights, settings and data."""
    depends = {
        "format": _FORMAT,
        "encoder": encoder.encoder_name,
        "weights": encoder.provenance.sha256,
        "features": what,
        "size": encoder.size,
        "precision": encoder.precision,
        "depth": [encoder.depth_format.unit, encoder.depth_format.max_depth_m],
        "frames": sha256_of(frames),
    }
    return hashlib.sha256(json.dumps(depends, sort_keys=True).encode()).hexdigest()


def _kept(cache: Path | None, key: str, encode: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """What is in the cache under a key; else it is made and put there, whole or not at all."""
    if cache is None:
        return encode()
    path = cache / f"{key}.safetensors"
    if path.is_file():
        try:
            return load_file(path)
        except (SafetensorError, OSError):
            path.unlink()  # damaged, by a full disk for example
    made = encode()
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        part = Path(folder) / path.name
        save_file(made, part)
        part.replace(path)
    return made


def _alike(frames: Frames) -> list[list[int]]:
    """The indices of frames of the same size, some at a time."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, frame in enumerate(frames):
        groups.setdefault(frame.shape, []).append(index)
    return [group[start : start + _CHUNK] for group in groups.values() for start in range(0, len(group), _CHUNK)]
