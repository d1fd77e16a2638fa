"""`defm-rl compare A B`: two policies (runs or exported files) on the same frames, and the stage at which they part."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from defm_rl.commands.running import command
from defm_rl.commands.settings import parse, usage

_logger = logging.getLogger(__name__)
NAMES = ("A", "B")


@dataclass
class Settings:
    """What can be said as key=value."""

    recorded: str = ""  # recorded depth to compare on, see `defm_rl.recordings`; without it frames of the run's task
    adapted: str = ""  # weights of `defm-rl adapt`, of the run among the two; of B where both are runs
    recorded_unit: str = ""  # m, mm, the metres of one count, or inverse


@command("compare", lambda: usage("compare", NAMES, Settings, __doc__ or ""), ValueError)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status: 1 where the two part."""
    from defm_rl.deploy.comparison import compare, recorded_frames

    (first, second), chosen = parse(Settings, arguments, NAMES)
    frames = None
    if chosen.recorded:
        frames = recorded_frames(first, chosen.recorded, unit=_unit(chosen.recorded_unit))
    differences = compare(first, second, frames, adapted=chosen.adapted or None)
    width = max(len(difference.stage) for difference in differences)
    for difference in differences:
        _logger.info(
            "%s  largest difference %.2e  mean %.2e  of values around %.2e",
            difference.stage.ljust(width),
            difference.largest,
            difference.mean,
            difference.size,
        )
    parting = next((difference.stage for difference in differences if difference.parts), None)
    if parting is None:
        _logger.info("They do the same.")
        return 0
    _logger.info("They part at %s.", parting)
    return 1


def _unit(text: str) -> str | float | None:
    """A unit as it is written."""
    try:
        return float(text)
    except ValueError:
        return text or None
