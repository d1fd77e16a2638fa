"""EfficientNet backbones (Tan and Le 2019, arXiv 1905.11946) with group normalization."""

import math
from dataclasses import dataclass

from torch import Tensor, nn

from defm_rl.encoders.layers import ConvNormAct, SqueezeExcitation, StochasticDepth, init_convolutions
from defm_rl.encoders.network import Backbone


class MBConv(nn.Module):
    """An inverted bottleneck: widen, depthwise convolution, squeeze and excitation, narrow; a skip where shapes allow.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel: Side of the depthwise kernel.
        stride: Stride of the depthwise convolution.
        expansion: Channels inside per channel of the input.
        drop_probability: Probability of the stochastic depth.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, stride: int, expansion: int, drop_probability: float
    ) -> None:
        super().__init__()
        width = in_channels * expansion
        widen = [ConvNormAct(in_channels, width, activation="silu")] if expansion > 1 else []
        self.block = nn.Sequential(
            *widen,
            ConvNormAct(width, width, kernel, stride, groups=width, activation="silu"),
            SqueezeExcitation(width, in_channels // 4, "silu"),
            ConvNormAct(width, out_channels),
        )
        has_skip = stride == 1 and in_channels == out_channels
        self.stochastic_depth = StochasticDepth(drop_probability) if has_skip else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out: Tensor = self.block(x)
        return out if self.stochastic_depth is None else x + self.stochastic_depth(out)


@dataclass(frozen=True)
class EfficientNetConfig:
    """An EfficientNet: how much wider and deeper it is than the B0."""

    width: float
    depth: float


EFFICIENTNET_B0 = EfficientNetConfig(1.0, 1.0)
EFFICIENTNET_B2 = EfficientNetConfig(1.1, 1.2)
EFFICIENTNET_B4 = EfficientNetConfig(1.4, 1.8)
EFFICIENTNET_B6 = EfficientNetConfig(1.8, 2.6)

STEM_CHANNELS = 32

# The stages of the B0: expansion, kernel, stride, channels, blocks. The published encoders end before the last one.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
USED_STAGES = 6

# Stochastic depth rises linearly from 0 at the first block to this after the last block of the whole network.
MAX_DROP_PROBABILITY = 0.2


class EfficientNet(Backbone):
    """An EfficientNet without its last stage and its classifier."""

    stages = {"stem": ("features.0",), **{f"stage{i}": (f"features.{i}",) for i in range(1, USED_STAGES + 1)}}
    taps = {"P3": "stage3", "P4": "stage4", "P5": "stage6"}
    prefers_channels_last = True

    def __init__(self, config: EfficientNetConfig) -> None:
        super().__init__()
        depths = [math.ceil(blocks * config.depth) for *_, blocks in STAGES]
        channels = _scaled_channels(STEM_CHANNELS, config.width)
        features: list[nn.Module] = [ConvNormAct(3, channels, 3, stride=2, activation="silu")]
        widths = {}
        index = 0
        for i, (expansion, kernel, stride, base_width, _) in enumerate(STAGES[:USED_STAGES], start=1):
            width = _scaled_channels(base_width, config.width)
            blocks: list[nn.Module] = []
            for j in range(depths[i - 1]):
                drop = MAX_DROP_PROBABILITY * index / sum(depths)
                blocks.append(MBConv(channels, width, kernel, stride if j == 0 else 1, expansion, drop))
                channels = width
                index += 1
            features.append(nn.Sequential(*blocks))
            widths[f"stage{i}"] = width
        self.features = nn.Sequential(*features)
        self.channels = {level: widths[stage] for level, stage in self.taps.items()}
        init_convolutions(self)


def _scaled_channels(channels: int, factor: float) -> int:
    """The multiple of 8 nearest to the scaled channels, halves upward, never more than a tenth below them."""
    scaled = channels * factor
    rounded = max(8, int(scaled + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * scaled else rounded + 8
