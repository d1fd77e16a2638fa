"""`defm-rl bench-latency PATH|NAME`: one frame at a time on this machine's CPU, of an exported file or an encoder."""

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


@command(
    "bench-latency",
    lambda: usage("bench-latency", NAMES, Settings, __doc__ or ""),
    *(ValueError, FileNotFoundError, RuntimeError),
)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    from defm_rl.deploy.latency import measure

    (name,), chosen = parse(Settings, arguments, NAMES)
    rows = measure(name, threads=chosen.threads or None, seconds=chosen.seconds, size=chosen.size)
    _logger.info(
        "%-14s %7s %8s %8s %8s %8s %10s", *("", "threads", "p50 ms", "p90 ms", "p99 ms", "start s", "memory MB")
    )
    for row in rows:
        _logger.info(
            "%-14s %7d %8.2f %8.2f %8.2f %8.2f %10.0f",
            *(row.name, row.threads, row.p50_ms, row.p90_ms, row.p99_ms, row.start_s, row.memory_mb),
        )
    return 0
