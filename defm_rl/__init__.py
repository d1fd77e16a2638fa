"""DeFM, a foundation model for depth images, behind robot policies."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from defm_rl.checking import check_env
    from defm_rl.depth import normalize_depth
    from defm_rl.encoders import DepthEncoder, list_encoders, load_encoder

__all__ = ["DepthEncoder", "check_env", "list_encoders", "load_encoder", "normalize_depth"]

# Imported when they are asked for: on a robot, where `defm_rl.deploy` runs exported policies, there is no PyTorch.
_HOMES = {
    "DepthEncoder": "defm_rl.encoders",
    "check_env": "defm_rl.checking",
    "list_encoders": "defm_rl.encoders",
    "load_encoder": "defm_rl.encoders",
    "normalize_depth": "defm_rl.depth",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
