"""The published package `defm` as its users run it: what the benchmarks compare with.

`make bench` installs `defm` and torchvision (which it imports) into an environment of their own, without their
dependencies. torchvision's wheel is built against CUDA: beside a CPU build of PyTorch it fails on registering fake
versions of its C++ operators, unless somebody has declared them. The networks need none of them.
"""

import contextlib
import warnings
from typing import Any

import torch

# Kept for good: the declarations go with it.
_DECLARATIONS = torch.library.Library("torchvision", "FRAGMENT")
with contextlib.suppress(RuntimeError):  # a CUDA build of torchvision declares them itself
    for _name in ("nms", "qnms"):
        _DECLARATIONS.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

warnings.filterwarnings("ignore", module="defm")
from defm.model_factory import create_defm_model  # noqa: E402
from defm.utils import preprocess_depth_batch as preprocess_depth_batch  # noqa: E402


def load(name: str, state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The published model in evaluation mode, with these weights."""
    model = create_defm_model(name, pretrained=False)
    model.load_state_dict(state, strict=True)
    return model.eval()


def global_features(model: Any, x: torch.Tensor) -> torch.Tensor:
    """Global features as cheaply as the published model gives them: without its BiFPN."""
    if hasattr(model, "forward_no_bifpn"):
        return model.forward_no_bifpn(x)["global_backbone"]
    return model.forward_features(x)["x_norm_clstoken"]
