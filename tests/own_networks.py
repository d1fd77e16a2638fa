"""Encoders as users write them, right ones and wrong ones; named by their module as users name theirs."""

import torch
from torch import nn

from defm_rl.encoders import Encoder, EncoderOutput


class Vector(nn.Module):
    """The least: one vector per image, of depth in metres."""

    input_channels = "metres"

    def __init__(self, width=8, layers=1):
        super().__init__()
        self.feature_dim = width
        self.body = nn.Sequential(*(nn.LazyConv2d(width, 3, stride=2, padding=1) for _ in range(layers)))
        self.body(torch.zeros(1, 3, 8, 8))
        self.head = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.head(self.body(x).relu().mean((2, 3))))


class Pyramid(Encoder):
    """Maps, batch normalization, and a table that is computed when it is made."""

    def __init__(self, width=8):
        super().__init__()
        self.channels = {"global": width, "P2": width, "P3": 2 * width}
        self.strides = {"P2": 4, "P3": 8}
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 4, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Conv2d(width, 2 * width, 3, 2, 1)
        self.scale = torch.linspace(1.0, 2.0, width)[:, None, None]  # no buffer: nothing restores it

    def forward(self, x, bifpn=True, features=None):
        wants_global, levels = self._selected(features)
        fine = self.stem(x) * self.scale
        maps = {"P2": fine}
        if "P3" in levels:
            maps["P3"] = self.last(fine)
        return EncoderOutput(fine.mean((2, 3)) if wants_global else None, {level: maps[level] for level in levels})


class WithWeights(Vector):
    """Has weights of its own that its authors publish."""

    def load_pretrained(self):
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.fill_(0.1)


class OutOfReach(Vector):
    def load_pretrained(self):
        raise ConnectionError("no route to host")


class NoFeatureDim(nn.Module):
    pass


class SaysNothing(Encoder):
    pass


def no_module():
    return 3


class BatchDependent(Vector):
    def forward(self, x):
        return super().forward(x) - super().forward(x).mean(0)


class Chance(Vector):
    def forward(self, x):
        return super().forward(x) + torch.randn(())


class TooLong(Vector):
    def forward(self, x):
        return super().forward(x)[:, 1:]


class LeftOut(Pyramid):
    def stage_prefixes(self):
        return {"stem": ("stem.",)}
