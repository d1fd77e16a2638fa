"""`defm-rl report SWEEP... [measure=success]`: the runs in a folder as one page, finished or not.

A setting is what differs between runs but for the seed: its success over its runs, curves and cost, and against others.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defm_rl.commands import experiment_settings as settings
from defm_rl.commands.running import command
from defm_rl.experiments.config import ConfigError
from defm_rl.experiments.outcomes import outcomes_below
from defm_rl.experiments.report.write_sweep import write_sweep

_logger = logging.getLogger(__name__)


@dataclass
class Settings:
    """What can be said after the folders, as key=value."""

    measure: str = "success"  # or another figure of the runs' evaluations: spl, reward, ...
    report: str | None = None  # the report's folder; without it the folder `report` in the first sweep's
    title: str = "Sweep"


@command("report", lambda: settings.usage("defm-rl report SWEEP...", Settings, __doc__ or ""))
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    overrides = [argument for argument in arguments if "=" in argument and not Path(argument).exists()]
    chosen = settings.parse(Settings, overrides)
    folders = [Path(argument) for argument in arguments if argument not in overrides]
    if not folders:
        raise ConfigError("Name a folder with runs in it: defm-rl report runs/quickstart/DATE")
    outcomes = outcomes_below(folders)
    if not outcomes:
        raise ConfigError(f"There are no runs in {', '.join(map(str, folders))}.")
    target = Path(chosen.report) if chosen.report else folders[0] / "report"
    page = write_sweep(target, chosen.title, folders, outcomes, chosen.measure)
    unfinished = sum(outcome.metrics is None for outcome in outcomes)
    _logger.info(
        "%d runs%s. Report: %s", len(outcomes), f", {unfinished} of them not finished" if unfinished else "", page
    )
    return 0
