"""The published models' names and what each of them is made of."""

from collections.abc import Callable
from functools import partial

from defm_rl.encoders.base import Encoder
from defm_rl.encoders.efficientnet import (
    EFFICIENTNET_B0,
    EFFICIENTNET_B2,
    EFFICIENTNET_B4,
    EFFICIENTNET_B6,
    EfficientNet,
)
from defm_rl.encoders.network import Backbone, ConvEncoder
from defm_rl.encoders.regnet import REGNET_Y_1_6GF, REGNET_Y_400MF, REGNET_Y_800MF, RegNet
from defm_rl.encoders.resnet import RESNET18, RESNET34, RESNET50, ResNet
from defm_rl.encoders.vit import VIT_L14, VIT_S14, VisionTransformer


def _conv(backbone: Callable[[], Backbone], bifpn_channels: int) -> Callable[[], Encoder]:
    return lambda: ConvEncoder(backbone(), bifpn_channels)


ARCHITECTURES: dict[str, Callable[[], Encoder]] = {
    "defm_resnet18": _conv(partial(ResNet, RESNET18), 128),
    "defm_resnet34": _conv(partial(ResNet, RESNET34), 256),
    "defm_resnet50": _conv(partial(ResNet, RESNET50), 256),
    "defm_regnet_y_400mf": _conv(partial(RegNet, REGNET_Y_400MF), 64),
    "defm_regnet_y_800mf": _conv(partial(RegNet, REGNET_Y_800MF), 128),
    "defm_regnet_y_1_6gf": _conv(partial(RegNet, REGNET_Y_1_6GF), 256),
    "defm_efficientnet_b0": _conv(partial(EfficientNet, EFFICIENTNET_B0), 64),
    "defm_efficientnet_b2": _conv(partial(EfficientNet, EFFICIENTNET_B2), 128),
    "defm_efficientnet_b4": _conv(partial(EfficientNet, EFFICIENTNET_B4), 256),
    "defm_efficientnet_b6": _conv(partial(EfficientNet, EFFICIENTNET_B6), 256),
    "defm_vit_s14": partial(VisionTransformer, VIT_S14),
    "defm_vit_l14": partial(VisionTransformer, VIT_L14),
}


def build_network(name: str) -> Encoder:
    """A network with random weights, drawn from PyTorch's global generator.

    Args:
        name: A published model's name, such as "defm_resnet18".

    Returns:
        The network in training mode, as PyTorch makes modules.

    Raises:
        ValueError: For an unknown name, with those there are.
    """
    if name not in ARCHITECTURES:
        raise ValueError(f"Unknown encoder {name!r}; there are {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]()
