"""`defm-rl pull user/repo[@revision] [FOLDER]`: a policy from the Hugging Face Hub, as the folder of a run.

Without FOLDER it is runs/hub/user/repo.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defm_rl.commands.running import command
from defm_rl.commands.settings import parse, usage
from defm_rl.experiments.hub import Place, pull

_logger = logging.getLogger(__name__)
NAMES = ("user/repo[@revision]", "[FOLDER]")


@dataclass
class Settings:
    """What can be said after the names, as key=value."""

    trust: bool = False  # code that the repository brings or names may run here


@command("pull", lambda: usage("pull", NAMES, Settings, __doc__ or ""))
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    (place, *folder), chosen = parse(Settings, arguments, NAMES)
    run = pull(Place.parse(place), *map(Path, folder), trust=chosen.trust)
    _logger.info("Next: defm-rl evaluate %s sensors=all, or defm-rl export %s", run.folder, run.folder)
    return 0
