"""The most memory that this process had since it was asked to watch."""

import contextlib
import re
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


def watch_peak_memory() -> None:
    """Begins anew: what the jobs of a sweep before this one took in the same process is not this one's."""
    with contextlib.suppress(OSError):
        (_PROCESS / "clear_refs").write_text("5")  # proc(5): resets the peak resident set size
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, float]:
    """In MB (10^6 bytes), of the process and of tensors on the GPU; what nobody says is left out."""
    found = {}
    with contextlib.suppress(OSError):
        resident = re.search(r"^VmHWM:\s+(\d+) kB$", (_PROCESS / "status").read_text(), re.MULTILINE)
        if resident is not None:
            found["peak_memory_mb"] = round(int(resident[1]) * 1024 / 1e6, 1)
    if torch.cuda.is_initialized():
        found["peak_gpu_memory_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return found
