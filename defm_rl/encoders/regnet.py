"""RegNetY backbones (Radosavovic et al. 2020, arXiv 2003.13678) with group normalization."""

from dataclasses import dataclass

from torch import Tensor, nn

from defm_rl.encoders.layers import ConvNormAct, SqueezeExcitation, init_convolutions
from defm_rl.encoders.network import Backbone

STEM_CHANNELS = 32


class Transform(nn.Module):
    """The residual branch: 1x1 convolution, grouped 3x3 convolution, squeeze and excitation, 1x1 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, and inside.
        stride: Stride of the 3x3 convolution.
        group_width: Channels per group of the 3x3 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        self.a = ConvNormAct(in_channels, out_channels, activation="relu")
        self.b = ConvNormAct(out_channels, out_channels, 3, stride, out_channels // group_width, activation="relu")
        # A quarter of what enters the block, not of what the gate scales.
        self.se = SqueezeExcitation(out_channels, round(in_channels / 4), "relu")
        self.c = ConvNormAct(out_channels, out_channels, activation="relu")

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride); adds `skip` before the last ReLU."""
        out: Tensor = self.c(self.se(self.b(self.a(x))), skip)
        return out


class Block(nn.Module):
    """A residual block of RegNetY; arguments as for `Transform`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, group_width: int) -> None:
        super().__init__()
        changes_shape = stride != 1 or in_channels != out_channels
        self.proj = ConvNormAct(in_channels, out_channels, stride=stride) if changes_shape else None
        self.f = Transform(in_channels, out_channels, stride, group_width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride)."""
        out: Tensor = self.f(x, x if self.proj is None else self.proj(x))
        return out


@dataclass(frozen=True)
class RegNetConfig:
    """A RegNetY: channels and blocks of its four stages, and the channels per group of its 3x3 convolutions."""

    widths: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    group_width: int


REGNET_Y_400MF = RegNetConfig((48, 104, 208, 440), (1, 3, 6, 6), 8)
REGNET_Y_800MF = RegNetConfig((64, 144, 320, 784), (1, 3, 8, 2), 16)
REGNET_Y_1_6GF = RegNetConfig((48, 120, 336, 888), (2, 6, 17, 2), 24)


class RegNet(Backbone):
    """A RegNetY without its classifier."""

    stages = {
        "stem": ("stem",),
        "block1": ("trunk_output.block1",),
        "block2": ("trunk_output.block2",),
        "block3": ("trunk_output.block3",),
        "block4": ("trunk_output.block4",),
    }
    taps = {"P3": "block2", "P4": "block3", "P5": "block4"}
    prefers_channels_last = True

    def __init__(self, config: RegNetConfig) -> None:
        super().__init__()
        self.stem = ConvNormAct(3, STEM_CHANNELS, 3, stride=2, activation="relu")
        self.trunk_output = nn.Sequential()
        channels = STEM_CHANNELS
        for i, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True), start=1):
            stage = nn.Sequential()
            for j in range(depth):
                stage.add_module(f"block{i}-{j}", Block(channels, width, 2 if j == 0 else 1, config.group_width))
                channels = width
            self.trunk_output.add_module(f"block{i}", stage)
        self.channels = dict(zip(self.taps, config.widths[1:], strict=True))
        init_convolutions(self)
