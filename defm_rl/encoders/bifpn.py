"""The bidirectional feature pyramid over a backbone's maps (Tan et al. 2020, arXiv 1911.09070)."""

from collections.abc import Collection

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defm_rl.encoders.layers import Conv


class WeightedSum(nn.Module):
    """A weighted sum of two maps, with learned weights that are positive and add up to one."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(2))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two maps of one shape to one map."""
        weights = self.weights.relu()
        weights = weights / (weights.sum() + 1e-6)
        return weights[0] * first + weights[1] * second


class BiFPNBlock(nn.Module):
    """Carries coarse maps down to the finer ones, the result back up, and smooths every level.

    Args:
        channels: Channels of every map.
        num_levels: Number of maps, each half the size of the one before.
    """

    def __init__(self, channels: int, num_levels: int) -> None:
        super().__init__()
        self.fuse_topdown = nn.ModuleList(WeightedSum() for _ in range(num_levels - 1))
        self.fuse_bottomup = nn.ModuleList(WeightedSum() for _ in range(num_levels - 1))
        self.convs = nn.ModuleList(Conv(channels, channels, 3, bias=True) for _ in range(num_levels))

    def forward(self, maps: list[Tensor], wanted: Collection[int]) -> dict[int, Tensor]:
        """Fuses the maps.

        Args:
            maps: (B, channels, H, W), finest first.
            wanted: Indices of the levels to return; the others are computed only as far as these need them.

        Returns:
            The fused maps by index.
        """
        fused = list(maps)
        for i in reversed(range(len(maps) - 1)):
            fused[i] = self.fuse_topdown[i](maps[i], F.interpolate(fused[i + 1], scale_factor=2.0, mode="nearest"))
        for i in range(max(wanted)):
            fused[i + 1] = self.fuse_bottomup[i](fused[i + 1], F.max_pool2d(fused[i], 2))
        return {i: self.convs[i](fused[i]) for i in wanted}


class BiFPN(nn.Module):
    """Brings the maps of a backbone to the same channels and fuses them.

    Args:
        in_channels: Channels of each map by level, finest first.
        channels: Channels of every map that comes out.
    """

    def __init__(self, in_channels: dict[str, int], channels: int) -> None:
        super().__init__()
        self.levels = tuple(in_channels)
        self.proj = nn.ModuleList(Conv(c, channels, 1, bias=True) for c in in_channels.values())
        # A list of one: checkpoints name their parameters so.
        self.blocks = nn.ModuleList([BiFPNBlock(channels, len(in_channels))])

    def forward(self, maps: dict[str, Tensor], wanted: Collection[str]) -> dict[str, Tensor]:
        """Fuses maps of strides 8, 16, 32 of an image whose sides are multiples of 32.

        Args:
            maps: Every level, (B, C_level, H, W).
            wanted: The levels to return.

        Returns:
            The wanted levels, (B, channels, H, W).
        """
        projected = [proj(maps[level]) for level, proj in zip(self.levels, self.proj, strict=True)]
        fused = self.blocks[0](projected, [self.levels.index(level) for level in wanted])
        return {self.levels[i]: m for i, m in fused.items()}
