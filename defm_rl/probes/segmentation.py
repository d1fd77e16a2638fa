"""Classes of pixels from frozen maps: batch normalization and a linear layer, upsampled, after DINOv2's protocol.

Source: BNHead in dinov2/eval/segmentation/models/decode_heads/linear_head.py of facebookresearch/dinov2, with the AdamW
of its configurations, for a hundredth of their 40 000 steps: so the learning rate is 1e-2, ten times theirs.
"""

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defm_rl.probes.features import Maps

IGNORED = 255
"""Pixels of this class count for nothing."""

_BATCH = 64  # frames that are upsampled at once


class SegmentationProbe(nn.Module):
    """Batch normalization without an affine part, then a linear layer on each cell.

    Args:
        channels: Of the maps.
        classes: Of pixels.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.linear = nn.Conv2d(channels, classes, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)  # type: ignore[arg-type]

    def forward(self, maps: Maps, size: tuple[int, int]) -> Tensor:
        """(B, classes, H, W) scores, upsampled bilinearly to the images' size."""
        scores: Tensor = self.linear(self.norm(maps.cells.float()))
        height, width = (round(side / share) for side, share in zip(size, maps.covered, strict=True))
        whole = F.interpolate(scores, size=(height, width), mode="bilinear", align_corners=False)
        return whole[..., : size[0], : size[1]]


def fit_segmentation(
    maps: Maps,
    masks: Tensor,
    classes: int,
    *,
    steps: int = 400,
    batch_size: int = 16,
    learning_rate: float = 1e-2,
    weight_decay: float = 1e-4,
    seed: int = 0,
) -> SegmentationProbe:
    """Trains a probe by AdamW on the cross-entropy of all pixels that are not `IGNORED`; the rate falls linearly to 0.

    Args:
        maps: Of N frames, as `encode_maps` gives them.
        masks: (N, H, W) classes of pixels, integers from 0, or `IGNORED`.
        classes: How many there are.
        steps: Of AdamW.
        batch_size: Frames in each.
        learning_rate: At the beginning.
        weight_decay: Of AdamW.
        seed: Of batches.

    Raises:
        ValueError: For masks that do not fit.
    """
    if masks.ndim != 3 or len(masks) != len(maps):
        raise ValueError(f"expected masks (N, H, W) of {len(maps)} frames, got {tuple(masks.shape)}.")
    known = masks[masks != IGNORED]
    if len(known) and int(known.max()) >= classes:
        raise ValueError(f"masks must hold classes from 0 to {classes - 1} or {IGNORED}, got {int(known.max())}.")
    probe = SegmentationProbe(maps.cells.shape[1], classes).train()
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(probe.linear.parameters(), lr=learning_rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    size = (masks.shape[1], masks.shape[2])
    for _ in range(steps):
        chosen = torch.randint(len(maps), (min(batch_size, len(maps)),), generator=draw)
        loss = F.cross_entropy(probe(maps[chosen], size), masks[chosen].long(), ignore_index=IGNORED)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return probe.eval()


@torch.no_grad()
def confusion(probe: SegmentationProbe, maps: Maps, masks: Tensor, classes: int) -> Tensor:
    """How many pixels of each class (rows) are taken for each class (columns), by frame: (N, classes, classes)."""
    found = []
    for part in torch.arange(len(maps)).split(_BATCH):
        taken = probe(maps[part], (masks.shape[1], masks.shape[2])).argmax(dim=1)
        for seen, true in zip(taken, masks[part].long(), strict=True):
            known = true != IGNORED
            pairs = true[known] * classes + seen[known]
            found.append(torch.bincount(pairs, minlength=classes**2).view(classes, classes))
    return torch.stack(found)


def mean_iou(counts: Tensor) -> float:
    """Intersection over union, averaged over the classes that occur; of (classes, classes) counts of `confusion`."""
    counts = counts.double()
    union = counts.sum(dim=0) + counts.sum(dim=1) - counts.diagonal()
    return float((counts.diagonal()[union > 0] / union[union > 0]).mean())


class MeanIoU(NamedTuple):
    """A mean intersection over union with its 95 % interval."""

    value: float
    low: float
    high: float


def miou_interval(counts: Tensor, *, resamples: int = 1000, seed: int = 0) -> MeanIoU:
    """The mean IoU of all frames together, with a percentile bootstrap over the frames.

    Args:
        counts: (N, classes, classes), as `confusion` gives them.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    count, classes, _ = counts.shape
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    resampled = torch.from_numpy(drawn).double() @ counts.double().flatten(1)
    values = [mean_iou(sample.view(classes, classes)) for sample in resampled]
    low, high = np.percentile(values, (2.5, 97.5))
    return MeanIoU(mean_iou(counts.sum(dim=0)), float(low), float(high))
