"""What people hold DeFM against: networks made for color images, on depth, and a small transformer from scratch.

Torchvision and timm are imported when one of theirs is built.
"""

import math
from collections.abc import Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor

from defm_rl.encoders.base import Encoder, stages_of
from defm_rl.encoders.output import EncoderOutput
from defm_rl.encoders.registry import EncoderCard, register_encoder
from defm_rl.encoders.vit import VisionTransformer, ViTConfig

# Of ImageNet's images, from 0 to 1 (torchvision's documentation of its weights).
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class _OnDepth(Encoder):
    """A network for standardised color images, given depth.

    Args:
        input_channels: "defm", which is standardised already; "log" or "metres", which are replicated, and the first of
            them, from 0 to 1 as colors are, standardised as these.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, input_channels: str) -> None:
        super().__init__()
        self.input_channels = input_channels
        self.register_buffer("mean", torch.tensor(_MEAN)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(_STD)[:, None, None], persistent=False)

    def _colors(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std if self.input_channels == "log" else x


class TorchvisionResNet(_OnDepth):
    """A ResNet of torchvision without its classifier; `load_pretrained` gives it torchvision's ImageNet weights.

    Args:
        architecture: Its name in torchvision, such as "resnet18", "resnext50_32x4d" or "wide_resnet50_2".
        input_channels: See `_OnDepth`.
    """

    def __init__(self, architecture: str = "resnet18", input_channels: str = "defm") -> None:
        super().__init__(input_channels)
        body = _torchvision().models.get_model(architecture)
        if not hasattr(body, "layer4"):
            raise ValueError(f"{architecture!r} is none of torchvision's ResNets.")
        self.architecture = architecture
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"):
            self.add_module(name, getattr(body, name))
        coarsest: int = body.fc.in_features
        self.channels = {"global": coarsest, "P3": coarsest // 4, "P4": coarsest // 2, "P5": coarsest}
        self.strides = {"P3": 8, "P4": 16, "P5": 32}

    def forward(self, x: Tensor, bifpn: bool = True, features: Collection[str] | None = None) -> EncoderOutput:
        """See `Encoder.forward`; global features are the mean of the coarsest map."""
        wants_global, levels = self._selected(features)
        x = self._colors(x)
        for name in ("conv1", "bn1", "relu", "maxpool", "layer1"):
            x = self.get_submodule(name)(x)
        maps: dict[str, Tensor] = {}
        last = max(("P5",) if wants_global else levels)
        for level, name in (("P3", "layer2"), ("P4", "layer3"), ("P5", "layer4")):
            x = self.get_submodule(name)(x)
            maps[level] = x
            if level == last:
                break
        return EncoderOutput(x.mean((2, 3)) if wants_global else None, {level: maps[level] for level in levels})

    def stage_prefixes(self) -> dict[str, tuple[str, ...]]:
        """See `Encoder.stage_prefixes`."""
        return {"stem": ("conv1.", "bn1."), **{f"layer{i}": (f"layer{i}.",) for i in range(1, 5)}}

    def load_pretrained(self) -> None:
        """Takes torchvision's default ImageNet weights, which it downloads."""
        state = _torchvision().models.get_model_weights(self.architecture).DEFAULT.get_state_dict(progress=False)
        self.load_state_dict({name: x for name, x in state.items() if not name.startswith("fc.")})


class TimmEncoder(_OnDepth):
    """A model of timm's without its classifier; `load_pretrained` gives it the weights that timm has for it.

    Maps are the last ones of each stride: "P3" at stride 8, "P4" at 16, ...; of a transformer the last blocks' tokens,
    "P16" where patches have 16 pixels.

    Args:
        model: Its name in timm, such as "mobilenetv3_small_100".
        input_channels: See `_OnDepth`.
        size_multiple: What height and width must be multiples of. 0: of a transformer's patches, of others anything.
        **kwargs: For `timm.create_model`; transformers that take images of any size are told to.
    """

    file_prefix = "model."

    def __init__(
        self, model: str = "resnet18", input_channels: str = "defm", size_multiple: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(input_channels)
        timm = _timm()
        self._named: tuple[str, dict[str, Any]] = model, {"num_classes": 0, **kwargs}
        if "vit" in model.partition("_")[0] and "dynamic_img_size" not in kwargs:
            self._named[1]["dynamic_img_size"] = True
        self.model = timm.create_model(model, **self._named[1])
        if not hasattr(self.model, "forward_intermediates"):
            raise ValueError(f"timm's {model!r} gives no feature maps (it has no forward_intermediates).")
        info = list(self.model.feature_info)
        is_pyramid = len({entry["reduction"] for entry in info}) > 1
        # The last of each stride, finest first.
        self._taken = {
            f"P{int(math.log2(entry['reduction'])) if is_pyramid else entry['reduction']}": index
            for index, entry in enumerate(info)
        }
        self.strides = {level: int(info[index]["reduction"]) for level, index in self._taken.items()}
        maps = {level: int(info[index]["num_chs"]) for level, index in self._taken.items()}
        pooled = getattr(self.model, "head_hidden_size", None) or self.model.num_features
        self.channels = {"global": int(pooled), **maps}
        self.size_multiple = size_multiple or (1 if is_pyramid else max(self.strides.values()))
        self.shares_batches = is_pyramid

    def forward(self, x: Tensor, bifpn: bool = True, features: Collection[str] | None = None) -> EncoderOutput:
        """See `Encoder.forward`."""
        wants_global, levels = self._selected(features)
        x = self._colors(x)
        indices = [self._taken[level] for level in levels]
        if not levels:
            return EncoderOutput(self.model.forward_head(self.model.forward_features(x), pre_logits=True), {})
        if not wants_global:
            maps = self.model.forward_intermediates(x, indices=indices, stop_early=True, intermediates_only=True)
            return EncoderOutput(None, dict(zip(levels, maps, strict=True)))
        last, maps = self.model.forward_intermediates(x, indices=indices)
        return EncoderOutput(self.model.forward_head(last, pre_logits=True), dict(zip(levels, maps, strict=True)))

    def stage_prefixes(self) -> dict[str, tuple[str, ...]]:
        """Each submodule of the model is a stage."""
        stages = stages_of(self.model)
        return {stage: tuple(f"{self.file_prefix}{p}" for p in prefixes) for stage, prefixes in stages.items()}

    def load_pretrained(self) -> None:
        """Takes the weights that timm has for the model, which it downloads."""
        name, kwargs = self._named
        self.model.load_state_dict(_timm().create_model(name, pretrained=True, **kwargs).state_dict())


class SmallViT(VisionTransformer):
    """A vision transformer small enough to be trained from scratch, with patches of 14 pixels as DeFM's."""

    def __init__(self, dim: int = 192, depth: int = 6, heads: int = 3) -> None:
        super().__init__(ViTConfig(dim, depth, heads))


def _torchvision() -> Any:
    try:
        import torchvision
    except ImportError as error:
        raise ImportError(f"needs torchvision ({error}): pip install 'defm-rl[torchvision]'") from error
    return torchvision


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"needs timm ({error}): pip install 'defm-rl[timm]'") from error
    return timm


for _name, _widest, _parameters in (
    ("resnet18", 512, 11_176_512),
    ("resnet34", 512, 21_284_672),
    ("resnet50", 2048, 23_508_032),
):
    register_encoder(
        EncoderCard(
            f"torchvision_{_name}",
            {"global": _widest, "P3": _widest // 4, "P4": _widest // 2, "P5": _widest},
            {"P3": 8, "P4": 16, "P5": 32},
            ("stem", "layer1", "layer2", "layer3", "layer4"),
            family="resnet",
            parameters=_parameters,
        ),
        partial(TorchvisionResNet, _name),
    )
register_encoder(
    EncoderCard(
        "small_vit",
        {"global": 192, "P14": 192},
        {"P14": 14},
        ("embed", "blocks0", "blocks1", "blocks2", "blocks3", "norm"),
        size_multiple=14,
        family="vit",
        parameters=2_836_224,
    ),
    SmallViT,
)
