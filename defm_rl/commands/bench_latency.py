"""`defm-rl bench-latency PATH|NAME`: one frame at a time on this machine's CPU, of an exported file or an encoder."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from defm_rl.commands.settings import log_to_stdout, parse, usage

_logger = logging.getLogger(__name__)
NAMES = ("PATH|NAME",)


@dataclass
class Settings:
    """What can be said after the name, as key=value."""

    seconds: float = 2.0  # spent on each measurement
    size: tuple[int, int] = (64, 64)  # height and width of the depth images, of an encoder
    threads: int = 0  # how many "all threads" are; 0: those that the process may use


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    log_to_stdout()
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(usage("bench-latency", NAMES, Settings, __doc__ or ""))
        return 0
    from defm_rl.deploy.latency import measure

    try:
        (name,), chosen = parse(Settings, arguments, NAMES)
        rows = measure(name, threads=chosen.threads or None, seconds=chosen.seconds, size=chosen.size)
    except (ValueError, FileNotFoundError, RuntimeError) as error:
        sys.stderr.write(f"defm-rl bench-latency: {error}\n")
        return 2
    _logger.info(
        "%-14s %7s %8s %8s %8s %8s %10s", *("", "threads", "p50 ms", "p90 ms", "p99 ms", "start s", "memory MB")
    )
    for row in rows:
        _logger.info(
            "%-14s %7d %8.2f %8.2f %8.2f %8.2f %10.0f",
            *(row.name, row.threads, row.p50_ms, row.p90_ms, row.p99_ms, row.start_s, row.memory_mb),
        )
    return 0
