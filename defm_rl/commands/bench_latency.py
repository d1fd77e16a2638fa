"""`defm-rl bench-latency PATH|NAME`: one frame at a time on this machine's CPU, of an exported file or an encoder."""

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from defm_rl.commands.running import command
from defm_rl.commands.settings import parse, usage

_logger = logging.getLogger(__name__)
NAMES = ("PATH|NAME",)


@dataclass
class Settings:
    """What can be said after the name, as key=value."""

    seconds: float = 2.0  # spent on each measurement
    size: tuple[int, int] = (64, 64)  # height and width of the depth images, of an encoder
    threads: int = 0  # how many "all threads" are; 0: those that the process may use
    int8: bool = True  # whether a file in float32, or an encoder's, is timed quantized, too


@command(
    "bench-latency",
    lambda: usage("bench-latency", NAMES, Settings, __doc__ or ""),
    *(ValueError, FileNotFoundError, RuntimeError),
)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    from defm_rl.deploy.latency import measure

    (name,), chosen = parse(Settings, arguments, NAMES)
    rows = measure(name, **vars(chosen) | {"threads": chosen.threads or None})
    _logger.info(
        "%-14s %7s %8s %8s %8s %8s %10s", *("", "threads", "p50 ms", "p90 ms", "p99 ms", "start s", "memory MB")
    )
    for row in rows:
        _logger.info(
            "%-14s %7d %8.2f %8.2f %8.2f %8.2f %10.0f",
            *(row.name, row.threads, row.p50_ms, row.p90_ms, row.p99_ms, row.start_s, row.memory_mb),
        )
    for note in notes([row.name for row in rows]):
        _logger.info(note)
    return 0


def notes(names: Sequence[str]) -> list[str]:
    """What has to be known of the rows, and of those that are missing."""
    from defm_rl.deploy.latency import INT8, PUBLISHED

    notes = []
    if INT8 in names:
        notes.append(f"{INT8}: calibrated on random frames, which is good for its time alone.")
    if names[0].startswith(PUBLISHED):
        notes.append(f"{names[0]}: the published package's preprocessing and network, without what follows them.")
    elif importlib.util.find_spec(PUBLISHED) is None:
        notes.append(
            f"The published package is not installed here and has no row: pip install --no-deps {PUBLISHED} torchvision"
        )
    return notes
