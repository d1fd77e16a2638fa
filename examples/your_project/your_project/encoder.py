"""A small network, known to defm-rl as `your_encoder`."""

import torch
from torch import nn

from defm_rl.encoders import EncoderCard, register_encoder


class Net(nn.Module):
    """Two convolutions on depth in metres, and what they see on average in three columns."""

    input_channels = "metres"
    feature_dim = 24

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.second = nn.Conv2d(8, 8, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) to (B, 24)."""
        x = self.second(self.first(x).relu()).relu().mean(2)
        return torch.cat([part.mean(2) for part in x.tensor_split(3, dim=2)], dim=1)


register_encoder(
    EncoderCard("your_encoder", {"global": 24}, stages=("first", "second"), input_channels="metres"),
    Net,
)
