"""`defm-rl push RUN user/repo`: a run's policy on the Hugging Face Hub, with its figures, its film and a model card."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defm_rl.commands.running import command
from defm_rl.commands.settings import parse, usage
from defm_rl.experiments.hub import push
from defm_rl.experiments.runs import Run

_logger = logging.getLogger(__name__)
NAMES = ("RUN", "user/repo")


@dataclass
class Settings:
    """What can be said after the names, as key=value."""

    private: bool = False
    update: bool = False  # of a repository that is there already
    encoder: bool = False  # the encoder's weights as well, where they are a file of one's own
    license: str = ""  # of the policy, as the Hub writes it: apache-2.0


@command("push", lambda: usage("push", NAMES, Settings, __doc__ or ""))
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    (folder, repository), chosen = parse(Settings, arguments, NAMES)
    url = push(
        Run(Path(folder)),
        repository,
        private=chosen.private,
        update=chosen.update,
        encoder=chosen.encoder,
        license_name=chosen.license or None,
    )
    _logger.info("%s is at %s\nAnyone who may see it: defm-rl evaluate hf://%s", folder, url, repository)
    return 0
