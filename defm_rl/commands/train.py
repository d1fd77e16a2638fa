"""`defm-rl train experiment=...`: trains a policy, or several by Hydra's sweeps, or goes on with one."""

import dataclasses
import importlib.util
import logging
import os
import re
import sys
from collections.abc import Mapping, Sequence
from multiprocessing import current_process
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig

from defm_rl.errors import UserError
from defm_rl.experiments.check import check_settings
from defm_rl.experiments.config import (
    CONF_MODULE,
    Config,
    ConfigError,
    register,
    with_free_keys,
    with_search_path,
)
from defm_rl.experiments.evaluation import describe
from defm_rl.experiments.identity import run_digest
from defm_rl.experiments.interruption import INTERRUPTED, stop_on_sigterm
from defm_rl.experiments.overrides import check_overrides
from defm_rl.experiments.places import own_place, places
from defm_rl.experiments.runs import Run, check_same_policy, to_config
from defm_rl.experiments.status import State, read_status
from defm_rl.experiments.sweeps import figure
from defm_rl.experiments.train import train

_logger = logging.getLogger(__name__)


def task(composed: DictConfig) -> float:
    """One job of Hydra's: a run, or one of a sweep. Returns what a sweep may maximize: success, else the reward."""
    logging.captureWarnings(True)
    job = HydraConfig.get()
    run = Run(Path(composed.resume or job.runtime.output_dir))
    overrides = [override for override in job.overrides.task if not override.startswith("resume=")]
    _logger.info("Run folder: %s", os.path.relpath(run.folder))
    stop_on_sigterm()
    try:
        config = _config(composed, overrides)
        if config.resume:
            overrides = overrides[len(run.options()) :]
        if job.mode is RunMode.MULTIRUN:
            return _one_of_many(config, run, overrides)
        metrics = train(config, run, overrides)
    except UserError as error:
        sys.stderr.write(f"defm-rl train: {error}\n")
        if job.mode is RunMode.MULTIRUN:  # the other runs go on
            raise
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        if run.has_checkpoint:
            resume = quoted(os.path.relpath(run.folder))
            steps = run.state()["steps"]
            _logger.info("\nInterrupted; %d steps are kept. Go on with: defm-rl train resume=%s", steps, resume)
        else:
            _logger.info("\nInterrupted before training began: there is nothing to go on from.")
        raise SystemExit(INTERRUPTED) from None
    _tell(run, metrics)
    return figure(run)


_job = hydra.main(version_base="1.3", config_path=f"pkg://{CONF_MODULE}", config_name="config")(task)


def _one_of_many(config: Config, run: Run, overrides: Sequence[str]) -> float:
    """A sweep's run, on its share of the machine: from its checkpoint, where it has one, and not at all if finished."""
    digest = run_digest(config)
    status = read_status(run.folder)
    if status and status.state is State.FINISHED and status.digest == digest:
        return figure(run)
    job = HydraConfig.get()
    if run.has_checkpoint:
        _logger.info("It goes on from %d steps.", run.state()["steps"])
        encoder = dataclasses.replace(config.encoder, weights=run.state()["encoder"]["weights"])
        config, overrides = dataclasses.replace(config, encoder=encoder, resume=str(run.folder)), []
    driver = os.getppid()
    try:
        with own_place(places(job.launcher), Path(str(job.sweep.dir))):
            _tell(run, train(config, run, overrides, digest))
        if current_process().name.startswith("Loky") and os.getppid() != driver:
            logging.shutdown()
            os._exit(0)  # a worker of joblib's would wait for its driver, which was killed, for ever
    except UserError:
        raise
    except Exception:
        _logger.exception("%s failed.", run.folder)
        raise
    return figure(run)


def _tell(run: Run, metrics: Mapping[str, Any]) -> None:
    """How it went, and what there is to look at."""
    _logger.info("On layouts never seen in training: %s", describe(metrics["evaluation"]))
    encoder = metrics["made_by"]["encoder"]
    if encoder["kind"] == "defm" and encoder["weights"] == "random":
        _logger.info("(the encoder's weights are random, not the published ones)")
    pictures = [run.folder / name for name in ("episodes.gif", "learning_curve.png")]
    shown = [os.path.relpath(picture) for picture in pictures if picture.exists()]
    look = f" Look at {' and '.join(shown)}" if shown else ""
    _logger.info("%.0f s altogether.%s", metrics["training"]["total_s"], look)
    if not pictures[1].exists():
        _logger.info("No episode ended while it trained: there is no learning curve.")


def _config(composed: DictConfig, arguments: Sequence[str]) -> Config:
    """The configuration of a job; where it goes on with a run, the run's own with what `arguments` change."""
    if not composed.resume:
        return to_config(composed)
    run = Run(Path(composed.resume))
    changes = [argument for argument in arguments if not argument.startswith(("resume=", "hydra", "-"))]
    config = run.config(changes[len(run.options()) :])
    check_same_policy(run, config)
    return dataclasses.replace(config, resume=composed.resume)


def with_resumed(arguments: Sequence[str]) -> list[str]:
    """Has Hydra compose what a run that goes on can be told, in the run's folder; its values are the run's own.

    Raises:
        ConfigError: Where there is nothing to go on with.
    """
    resumed = [argument.partition("=")[2] for argument in arguments if argument.startswith("resume=")]
    if not resumed:
        return list(arguments)
    run = Run(Path(resumed[-1].strip("'")))
    options = run.options()
    run.state()
    added = [argument for argument in arguments if not argument.startswith("resume=")]
    folder = quoted(str(run.folder), always=True)
    return [*options, *added, f"resume={folder}", f"hydra.run.dir={folder}"]


def quoted(text: str, always: bool = False) -> str:
    """Text as a value on Hydra's command line, in quotes where it has characters that mean something there."""
    if not always and re.fullmatch(r"[\w./:%@+?|-]+", text):
        return text
    return "'" + text.replace("'", "\\'") + "'"


_NEEDED = {
    "hydra/sweeper=optuna": "optuna",
    "hydra/launcher=ray": "ray",
    "hydra/launcher=submitit_local": "submitit",
    "hydra/launcher=submitit_slurm": "submitit",
}


def _check_installed(arguments: Sequence[str]) -> None:
    """Raises a ModuleNotFoundError, of which the command makes a message, for what an option needs and is not there."""
    for argument in arguments:
        name = _NEEDED.get(argument)
        if name is not None and importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"{argument} needs {name}", name=name)


def with_zip(arguments: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """A command line on which `zip=[KEY,KEY]` is written as `hydra.sweeper.zip=[[KEY,KEY]]`, and its groups of keys.

    Raises:
        ConfigError: Where it is not of this form, or nothing is swept.
    """
    given = [argument for argument in arguments if argument.startswith("zip=")]
    if not given:
        return list(arguments), []
    groups: list[Any] = [OverridesParser.create().parse_override(argument).value() for argument in given]
    if not all(
        isinstance(keys, list) and len(keys) > 1 and all(isinstance(key, str) for key in keys) for keys in groups
    ):
        raise ConfigError(f"{' '.join(given)}: expected keys that go through their values together, zip=[KEY,KEY].")
    if not {"-m", "--multirun"} & set(arguments):
        raise ConfigError(f"{' '.join(given)} is of sweeps: add --multirun.")
    listed = ",".join(f"[{','.join(keys)}]" for keys in groups)
    others = [argument for argument in arguments if argument not in given]
    return [*others, f"hydra.sweeper.zip=[{listed}]"], groups


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    try:
        arguments, zipped = with_zip(with_resumed(with_search_path(arguments)))
        overrides = [argument for argument in arguments if not argument.startswith("-")]
        if all(flag in ("-m", "--multirun") for flag in arguments if flag.startswith("-")):
            check_settings(check_overrides(overrides, zipped, lambda composed: _config(composed, arguments)))
        else:  # --help, or to see the configuration
            check_overrides(overrides, zipped)
        _check_installed(arguments)
        register()
    except UserError as error:
        sys.stderr.write(f"defm-rl train: {error}\n")
        return 2
    sys.argv = ["defm-rl train", *with_free_keys(arguments)]
    try:
        _job()
    except SystemExit as end:  # Hydra's way, and ours, to end a job early
        return end.code if isinstance(end.code, int) else 1
    return 0
