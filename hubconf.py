"""The published encoders for `torch.hub.load(REPOSITORY, "defm_resnet18")`, as DeFM's own repository has them."""

import os
from collections.abc import Callable

from torch import nn

from defm_rl.defm import create_defm_model as _create_defm_model
from defm_rl.encoders.zoo import CARDS as _CARDS

dependencies = ["huggingface_hub", "numpy", "safetensors", "torch"]


def _entry(name: str) -> Callable[..., nn.Module]:
    def load(pretrained: bool = True, pretrained_path: str | os.PathLike[str] | None = None) -> nn.Module:
        return _create_defm_model(name, pretrained, pretrained_path)

    load.__name__ = load.__qualname__ = name
    load.__doc__ = f"""The encoder {name}, in evaluation mode; see `defm_rl.defm.create_defm_model`.

    Args:
        pretrained: Whether to take the published weights from the Hub; random ones otherwise.
        pretrained_path: Take the weights of this file instead.
    """
    return load


globals().update({_name: _entry(_name) for _name in _CARDS})
