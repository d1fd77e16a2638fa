"""What an encoder has to beat: no features at all, and depth itself, averaged over cells."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from defm_rl.depth import normalize_channels
from defm_rl.probes.features import Frames, Maps

_CELLS = 8  # of the features of pixels, in height and in width
_STRIDE = 8  # of the map of pixels, as P3 has it
CONSTANT, PIXELS = "constant", "pixels"
BASELINES = (CONSTANT, PIXELS)


def baseline_features(name: str, frames: Frames) -> Tensor:
    """(N, D) features: the same for all frames, or the logarithm of depth averaged over 8 x 8 cells."""
    if name == CONSTANT:
        return torch.ones(len(frames), 1)
    cells = [F.adaptive_avg_pool2d(torch.from_numpy(frame)[None].log1p(), _CELLS).flatten() for frame in frames]
    return torch.stack(cells)


def baseline_maps(name: str, frames: Frames) -> Maps:
    """Maps of frames of one size: the same everywhere, or DeFM's three channels, averaged over cells of 8 pixels."""
    depth = torch.from_numpy(np.stack([*frames]))
    channels = normalize_channels(depth)
    cells = F.avg_pool2d(channels, _STRIDE, ceil_mode=True)
    if name == CONSTANT:
        cells = torch.ones_like(cells[:, :1])
    height, width = (side / (count * _STRIDE) for side, count in zip(depth.shape[1:], cells.shape[2:], strict=True))
    return Maps(cells.half(), (height, width))
