"""From a run to the robot: a whole policy in one file that keeps its word, and the runtime that acts with it.

`Policy` and what belongs to it need NumPy and ONNX Runtime only; the rest imports PyTorch when it is asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from defm_rl.deploy.comparison import compare
    from defm_rl.deploy.exporting import export, export_encoder
    from defm_rl.deploy.latency import measure
    from defm_rl.deploy.runtime import Camera, Contract, FrameError, Policy

__all__ = ["Camera", "Contract", "FrameError", "Policy", "compare", "export", "export_encoder", "measure"]

_HOMES = {
    "Camera": "runtime",
    "Contract": "runtime",
    "FrameError": "runtime",
    "Policy": "runtime",
    "compare": "comparison",
    "export": "exporting",
    "export_encoder": "exporting",
    "measure": "latency",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
