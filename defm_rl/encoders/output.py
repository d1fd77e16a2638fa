"""What every encoder returns."""

from typing import NamedTuple

from torch import Tensor


class EncoderOutput(NamedTuple):
    """Features of a batch of depth images.

    Attributes:
        global_features: One vector per image, (B, C); None where it was not asked for.
        maps: Feature maps by level, each (B, C, H, W): "P3", "P4", "P5" at strides 8, 16, 32 for the CNNs, "P14" for
            the ViTs. Holds only the levels that were asked for.
    """

    global_features: Tensor | None
    maps: dict[str, Tensor]

    def float(self) -> "EncoderOutput":
        """The same in float32."""
        global_features = None if self.global_features is None else self.global_features.float()
        return EncoderOutput(global_features, {level: features.float() for level, features in self.maps.items()})
