"""What all encoders have in common: their interface, and the choice of features."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from defm_rl.encoders.output import EncoderOutput

if TYPE_CHECKING:
    from defm_rl.encoders.weights import WeightsInfo


class Encoder(nn.Module):
    """A network from a normalized depth image to features.

    Attributes:
        channels: Channels of "global" and of each map as the backbone gives it, finest map first.
        bifpn_channels: Channels of every map after the BiFPN; None where there is none.
        strides: Pixels of the input per cell of each map.
        size_multiple: What height and width must be multiples of where the network asks for it: a ViT always, the
            others with BiFPN.
        provenance: Which weights these are; set by `load_encoder`.
    """

    channels: dict[str, int]
    bifpn_channels: int | None
    strides: dict[str, int]
    size_multiple: int
    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no such type
        provenance: WeightsInfo

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the feature maps, finest first."""
        return tuple(self.strides)

    def stage_prefixes(self) -> dict[str, tuple[str, ...]]:
        """The stages from input to output; each parameter's name starts with exactly one of all the prefixes."""
        raise NotImplementedError

    def forward(self, x: Tensor, bifpn: bool = True, features: Collection[str] | None = None) -> EncoderOutput:
        """Features of a batch of images; only what is asked for is computed.

        Args:
            x: (B, 3, H, W), from `normalize_depth`.
            bifpn: Whether maps pass through the BiFPN. Without effect on networks that have none.
            features: "global" and names of maps; None for all of them.

        Raises:
            ValueError: For a feature that the network does not have, or a size that it cannot take.
        """
        raise NotImplementedError

    def _selected(self, features: Collection[str] | None) -> tuple[bool, tuple[str, ...]]:
        """Whether the global features are wanted, and which maps."""
        known = ("global", *self.levels)
        if features is None:
            return True, self.levels
        wrong = [name for name in features if name not in known]
        if wrong or not features:
            asked = repr(wrong[0]) if wrong else "none"
            raise ValueError(f"features must be one or more of {', '.join(known)}; got {asked}.")
        return "global" in features, tuple(level for level in self.levels if level in features)

    def _check_size(self, x: Tensor, advice: str) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return  # sizes are tensors there, and a tracer cannot record a comparison of them
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"Height and width must be multiples of {self.size_multiple} here; got {height}x{width}. {advice}"
            )
