"""The published package `defm` as its users run it: what is measured against, where it is installed.

It imports torchvision, whose wheel is built against CUDA: beside a CPU build of PyTorch that fails on registering fake
versions of its C++ operators, unless somebody has declared them. The networks need none of them.
"""

import contextlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# Kept for good: the declarations go with it.
_DECLARATIONS = torch.library.Library("torchvision", "FRAGMENT")
with contextlib.suppress(RuntimeError):  # a CUDA build of torchvision declares them itself
    for _name in ("nms", "qnms"):
        _DECLARATIONS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

warnings.filterwarnings("ignore", module="defm")
from defm.model_factory import create_defm_model  # noqa: E402
from defm.utils import preprocess_depth_batch as preprocess_depth_batch  # noqa: E402


def load(name: str, state: Mapping[str, Tensor] | None = None) -> nn.Module:
    """The published model in evaluation mode, with these weights, or random ones."""
    model: nn.Module = create_defm_model(name, pretrained=False)
    if state is not None:
        model.load_state_dict(state, strict=True)
    return model.eval()


def preprocessed(depth: Tensor, name: str, for_bifpn: bool = False) -> Tensor:
    """Channels of (B, H, W) depth in metres, as a model takes them."""
    channels: Tensor = preprocess_depth_batch(depth, patch_size=14 if "vit" in name else None, cnn_padding=for_bifpn)
    return channels


def global_features(model: Any, x: Tensor) -> Tensor:
    """Global features as cheaply as the published model gives them: without its BiFPN."""
    if hasattr(model, "forward_no_bifpn"):
        return model.forward_no_bifpn(x)["global_backbone"]
    return model.forward_features(x)["x_norm_clstoken"]
