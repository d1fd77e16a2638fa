"""ResNet backbones (He et al. 2016, arXiv 1512.03385) with group normalization; strides in the 3x3 convolutions."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from defm_rl.encoders.layers import Conv, ConvNormAct, GroupNormAct, MaxPool, init_convolutions
from defm_rl.encoders.network import Backbone

# Normalizations are called "bn" and the projection of the skip "downsample", as in the published checkpoints.


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a skip.

    Args:
        in_channels: Channels of the input.
        width: Channels of the convolutions.
        stride: Stride of the first one.
    """

    expansion: ClassVar[int] = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = Conv(in_channels, width, 3, stride)
        self.bn1 = GroupNormAct(width, "relu")
        self.conv2 = Conv(width, width, 3)
        self.bn2 = GroupNormAct(width, "relu")
        self.downsample = _skip_projection(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, width, H / stride, W / stride)."""
        skip = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.bn2(self.conv2(self.bn1(self.conv1(x))), skip)
        return out


class Bottleneck(nn.Module):
    """A 3x3 convolution between two 1x1 convolutions, the last of which has four times the channels, and a skip.

    Args:
        in_channels: Channels of the input.
        width: Channels inside.
        stride: Stride of the 3x3 convolution.
    """

    expansion: ClassVar[int] = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        out_channels = width * self.expansion
        self.conv1 = Conv(in_channels, width, 1)
        self.bn1 = GroupNormAct(width, "relu")
        self.conv2 = Conv(width, width, 3, stride)
        self.bn2 = GroupNormAct(width, "relu")
        self.conv3 = Conv(width, out_channels, 1)
        self.bn3 = GroupNormAct(out_channels, "relu")
        self.downsample = _skip_projection(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, 4 * width, H / stride, W / stride)."""
        skip = x if self.downsample is None else self.downsample(x)
        out: Tensor = self.bn1(self.conv1(x))
        out = self.bn2(self.conv2(out))
        out = self.bn3(self.conv3(out), skip)
        return out


def _skip_projection(in_channels: int, out_channels: int, stride: int) -> ConvNormAct | None:
    if stride == 1 and in_channels == out_channels:
        return None
    return ConvNormAct(in_channels, out_channels, stride=stride)


@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet: its kind of block, and how many of them each of the four stages has."""

    block: type[BasicBlock | Bottleneck]
    depths: tuple[int, int, int, int]


RESNET18 = ResNetConfig(BasicBlock, (2, 2, 2, 2))
RESNET34 = ResNetConfig(BasicBlock, (3, 4, 6, 3))
RESNET50 = ResNetConfig(Bottleneck, (3, 4, 6, 3))


class ResNet(Backbone):
    """A ResNet without its classifier."""

    stages = {
        "stem": ("conv1", "bn1", "maxpool"),
        "layer1": ("layer1",),
        "layer2": ("layer2",),
        "layer3": ("layer3",),
        "layer4": ("layer4",),
    }
    taps = {"P3": "layer2", "P4": "layer3", "P5": "layer4"}

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.conv1 = Conv(3, 64, 7, stride=2)
        self.bn1 = GroupNormAct(64, "relu")
        self.maxpool = MaxPool(3, stride=2, padding=1)
        channels = 64
        widths = (64, 128, 256, 512)
        for i, (width, depth) in enumerate(zip(widths, config.depths, strict=True), start=1):
            blocks: list[nn.Module] = []
            for j in range(depth):
                blocks.append(config.block(channels, width, stride=2 if i > 1 and j == 0 else 1))
                channels = width * config.block.expansion
            self.add_module(f"layer{i}", nn.Sequential(*blocks))
        self.channels = {
            level: width * config.block.expansion for level, width in zip(self.taps, widths[1:], strict=True)
        }
        init_convolutions(self)
