"""What an encoder has to beat."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from defm_rl.depth import normalize_channels

_SMALLEST_SIDE = 36  # the convolutions below leave one cell of it


class DepthCnn(nn.Sequential):
    """Three convolutions on the normalized depth (layout of Mnih et al. 2015), trained from scratch.

    Args:
        image_size: Height and width of the depth.

    Attributes:
        feature_dim: Number of features.

    Raises:
        ValueError: For depth that is too small for the convolutions.
    """

    def __init__(self, image_size: Sequence[int]) -> None:
        if min(image_size) < _SMALLEST_SIDE:
            raise ValueError(
                f"The CNN from scratch needs depth of at least {_SMALLEST_SIDE}x{_SMALLEST_SIDE} pixels, got "
                f"{'x'.join(map(str, image_size))}: have the camera draw more, such as env.depth_size=[48,64] of our "
                "tasks, or a setting in env.kwargs of others."
            )
        super().__init__(
            *(nn.Conv2d(3, 32, 8, stride=4), nn.ReLU()),
            *(nn.Conv2d(32, 64, 4, stride=2), nn.ReLU()),
            *(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Flatten()),
        )
        with torch.no_grad():
            self.feature_dim = self(torch.ones(1, *image_size)).shape[1]

    def forward(self, depth: Tensor) -> Tensor:
        """(B, H, W) metres to (B, feature_dim)."""
        x = normalize_channels(depth.float())
        for layer in self:
            x = layer(x)
        return x
