"""Runs as tasks of Ray's."""

import logging
from collections.abc import Sequence
from typing import Any

import ray
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, filter_overrides, run_job, setup_globals
from omegaconf import DictConfig, OmegaConf, open_dict

_logger = logging.getLogger(__name__)


def launch(launcher: Any, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Runs jobs, as many at a time as the cluster has room for; one that is lost is marked as failed.

    Args:
        launcher: Hydra's plugin.
        job_overrides: The overrides of each.
        first: The number of the first.
    """
    setup_globals()
    configure_log(launcher.config.hydra.hydra_logging, launcher.config.hydra.verbose)
    if not ray.is_initialized():
        ray.init(**_plain(launcher.init))
    task = ray.remote(**_plain(launcher.remote))(_run)
    tasks = []
    for number, overrides in enumerate(job_overrides, first):
        _logger.info("\t#%d : %s", number, " ".join(filter_overrides(overrides)))
        context = (launcher.hydra_context, launcher.config, launcher.task_function, Singleton.get_state())
        tasks.append(task.remote(number, list(overrides), *context))
    return [_result(task, overrides) for task, overrides in zip(tasks, job_overrides, strict=True)]


def _plain(settings: DictConfig) -> dict[str, Any]:
    return {str(key): value for key, value in OmegaConf.to_container(settings, resolve=True).items()}  # type: ignore[union-attr]


def _run(
    number: int, overrides: list[str], context: Any, master: DictConfig, task_function: Any, singletons: Any
) -> JobReturn:
    """In a worker of Ray's."""
    setup_globals()
    Singleton.set_state(singletons)
    config = context.config_loader.load_sweep_config(master, overrides)
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    return run_job(
        task_function=task_function,
        config=config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
        hydra_context=context,
    )


def _result(task: Any, overrides: Sequence[str]) -> JobReturn:
    try:
        returned: JobReturn = ray.get(task)
    except ray.exceptions.RayError as error:  # its worker died more often than it is begun again
        return JobReturn(overrides=overrides, status=JobStatus.FAILED, _return_value=error)
    return returned
