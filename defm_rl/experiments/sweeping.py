"""A sweep's runs, launched by one of Hydra's launchers: those that are not finished."""

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus, configure_log
from omegaconf import OmegaConf

from defm_rl.experiments.overrides import axes, product
from defm_rl.experiments.places import places
from defm_rl.experiments.sweeps import conclude, describe, plan, to_do

_logger = logging.getLogger(__name__)


def sweep(sweeper: Any, arguments: Sequence[str]) -> list[Sequence[JobReturn]]:
    """Runs what is to do of a sweep, and says so before and after.

    Args:
        sweeper: Hydra's plugin.
        arguments: The overrides of the command line.

    Returns:
        What the launcher returned, batch by batch.

    Raises:
        SystemExit: Where a run failed, after all others were given their turn.
    """
    config, loader = sweeper.config, sweeper.hydra_context.config_loader
    given = parsed(sweeper, arguments)
    save(config)
    runs = product(axes(given, [list(keys) for keys in sweeper.zip]))
    jobs = list(plan(runs, lambda overrides: loader.load_sweep_config(config, overrides)))
    jobs = list({job.digest: job for job in jobs}.values())  # values that make no difference make no other run
    _logger.info(describe(jobs, places(config.hydra.launcher)))
    left = [job.overrides for job in to_do(jobs)]
    returned = []
    for start in range(0, len(left), size := sweeper.max_batch_size or max(len(left), 1)):
        returned.append(sweeper.launcher.launch(left[start : start + size], initial_job_idx=start))
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    log_lost(itertools.chain(*returned))
    if not conclude(jobs):
        raise SystemExit(1)
    return returned


def parsed(sweeper: Any, arguments: Sequence[str]) -> list[Any]:
    """The overrides of a sweep: those of its configuration, then those of the command line."""
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items()]
    return OverridesParser.create(config_loader=sweeper.hydra_context.config_loader).parse_overrides(
        [*params, *arguments]
    )


def save(config: Any) -> Path:
    """Writes multirun.yaml, as Hydra's own sweeper does; returns the sweep's folder."""
    folder = Path(str(config.hydra.sweep.dir))
    folder.mkdir(parents=True, exist_ok=True)
    OmegaConf.save(config, folder / "multirun.yaml")
    return folder


def log_lost(returned: Any) -> None:
    """Tells of what a launcher lost before the run could say anything itself."""
    for job in returned:
        if job.status is JobStatus.FAILED:
            _logger.debug("%s: %r", " ".join(job.overrides or ()), job._return_value)
