"""The convolutional encoder: a backbone of any family, its global features, and the BiFPN over its maps."""

from collections.abc import Collection
from typing import ClassVar

from torch import Tensor, nn

from defm_rl.encoders.base import Encoder
from defm_rl.encoders.bifpn import BiFPN
from defm_rl.encoders.output import EncoderOutput


class Backbone(nn.Module):
    """A chain of convolutional stages. A family says what they are; running them is the same for all.

    Attributes:
        stages: For each stage the submodules that make it up, in the order in which they run.
        taps: After which stage each map is taken, finest first.
        channels: Channels of each map.
        prefers_channels_last: See `Encoder`.
    """

    stages: ClassVar[dict[str, tuple[str, ...]]]
    taps: ClassVar[dict[str, str]]
    channels: dict[str, int]
    prefers_channels_last: ClassVar[bool] = False

    def forward(self, x: Tensor, levels: Collection[str]) -> dict[str, Tensor]:
        """Runs the stages up to the last one that is needed.

        Args:
            x: (B, 3, H, W) images.
            levels: Names of the maps that are wanted, at least one.

        Returns:
            The wanted maps, (B, C, H / stride, W / stride) with sizes rounded up.
        """
        wanted = {stage: level for level, stage in self.taps.items() if level in levels}
        maps: dict[str, Tensor] = {}
        for stage, submodules in self.stages.items():
            for name in submodules:
                x = self.get_submodule(name)(x)
            if stage in wanted:
                maps[wanted[stage]] = x
                if len(maps) == len(wanted):
                    break
        return maps


class ConvEncoder(Encoder):
    """A convolutional DeFM encoder.

    Global features are the normalized mean of the coarsest map. Maps come from the BiFPN, normalized over channels, or
    as the backbone gives them.

    Args:
        backbone: Any backbone with maps at strides 8, 16 and 32.
        bifpn_channels: Channels of the maps after the BiFPN.
    """

    has_cpu_kernels = True

    def __init__(self, backbone: Backbone, bifpn_channels: int) -> None:
        super().__init__()
        self.prefers_channels_last = backbone.prefers_channels_last
        self.strides = {"P3": 8, "P4": 16, "P5": 32}
        self.size_multiple = 32
        self.bifpn_channels: int = bifpn_channels
        self.channels = {"global": backbone.channels["P5"], **backbone.channels}

        self.backbone = backbone
        self.fpn = BiFPN(backbone.channels, bifpn_channels)
        self.norm_cls = nn.LayerNorm(self.channels["global"], eps=1e-6)
        self.norm_patch = nn.LayerNorm(bifpn_channels, eps=1e-6)

    def forward(self, x: Tensor, bifpn: bool = True, features: Collection[str] | None = None) -> EncoderOutput:
        """Features of a batch of images; only what is asked for is computed.

        Args:
            x: (B, 3, H, W), from `normalize_depth`; any size without BiFPN, multiples of 32 with it.
            bifpn: Whether maps pass through the BiFPN.
            features: Some of "global", "P3", "P4", "P5"; None for all of them.

        Returns:
            Global features (B, C) and maps (B, C, H / stride, W / stride), sizes rounded up.

        Raises:
            ValueError: For an unknown feature, or maps with BiFPN from a size that is no multiple of 32.
        """
        wants_global, levels = self._selected(features)
        fused = bifpn and len(levels) > 0
        if fused:
            self._check_size(x, "Pad with normalize_depth(..., pad_to=32), or do without the BiFPN (bifpn=False).")

        # The BiFPN carries the coarsest map into all others; without it, each map needs the stages before it only.
        maps = self.backbone(x, self.levels if fused else (*levels, "P5") if wants_global else levels)
        global_features = self.norm_cls(maps["P5"].mean((2, 3))) if wants_global else None
        if fused:
            maps = {level: self._norm_channels(m) for level, m in self.fpn(maps, levels).items()}
        return EncoderOutput(global_features, {level: maps[level] for level in levels})

    def stage_prefixes(self) -> dict[str, tuple[str, ...]]:
        """The stages from input to output; each parameter's name starts with exactly one of all the prefixes."""
        backbone = {
            stage: tuple(f"backbone.{name}." for name in submodules)
            for stage, submodules in self.backbone.stages.items()
        }
        return {**backbone, "neck": ("fpn.", "norm_patch."), "head": ("norm_cls.",)}

    def _norm_channels(self, x: Tensor) -> Tensor:
        normed: Tensor = self.norm_patch(x.permute(0, 2, 3, 1))
        return normed.permute(0, 3, 1, 2)
