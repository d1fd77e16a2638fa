"""A search for settings by Optuna: trials are runs like those of any sweep, and the study goes on where it was."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.utils import JobReturn, JobStatus, configure_log
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from defm_rl.experiments.config import ConfigError
from defm_rl.experiments.overrides import axes, product
from defm_rl.experiments.sweeping import parsed, save

_logger = logging.getLogger(__name__)
_OVERRIDES = "overrides"  # an attribute of a trial: with these, its run is made again


def search(sweeper: Any, arguments: Sequence[str]) -> list[JobReturn]:
    """Runs trials until the study has as many as asked for; those that a driver left when it was killed come first.

    Where a trial is named (`trial`), its settings are run again.

    Args:
        sweeper: Hydra's plugin.
        arguments: The overrides of the command line: what is fixed, and what is searched.

    Returns:
        What the launcher returned.

    Raises:
        ConfigError: Where nothing is searched, or a setting of the search cannot be.
    """
    config, settings = sweeper.config, sweeper.settings
    given = parsed(sweeper, arguments)
    if settings["trial"] is not None:
        return _repeat(sweeper, given)
    space = {one.get_key_element(): distribution(one) for one in given if one.is_sweep_override()}
    fixed = [str(one.input_line) for one in given if not one.is_sweep_override()]
    if not space:
        raise ConfigError("Nothing is searched: give a key several values, or algo.gamma=interval(0.9,0.999).")
    study = _study(settings, save(config))
    over = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    left = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    _logger.info(
        "Study %s: %d of %d trials are done, %d were left and go on.",
        *(study.study_name, len(over), settings["n_trials"], len(left)),
    )
    returned: list[JobReturn] = []
    to_do = max(settings["n_trials"] - len(over), 0)
    waiting: list[FrozenTrial | Trial] = list(left[:to_do])
    while to_do > 0:
        count = min(settings["n_jobs"], to_do)
        while len(waiting) < count:
            waiting.append(_ask(study, space, fixed))
        batch, waiting = waiting[:count], waiting[count:]
        jobs = [list(trial.user_attrs[_OVERRIDES]) for trial in batch]
        results = sweeper.launcher.launch(jobs, initial_job_idx=batch[0].number)
        for trial, result in zip(batch, results, strict=True):
            _report(study, trial, result)
        returned += results
        to_do -= count
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    _tell_best(study)
    return returned


def distribution(override: Override) -> BaseDistribution:
    """What Optuna draws a key's values from: `a,b`, `choice(a,b)`, `range(1,8)` or `interval(1e-4,1e-2)`.

    `int(interval(1,8))` has whole numbers in it, and `tag(log,interval(1e-4,1e-2))` as many from 1e-4 to 1e-3 as from
    there to 1e-2.
    """
    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None
        assert value.end is not None
        log = "log" in value.tags
        if isinstance(value.start, int) and isinstance(value.end, int):
            return IntDistribution(value.start, value.end, log=log)
        return FloatDistribution(value.start, value.end, log=log)
    if isinstance(value, RangeSweep) and all(isinstance(x, int) for x in (value.start, value.stop, value.step)):
        start, step = int(value.start or 0), int(value.step)
        return IntDistribution(start, start + step * ((int(value.stop or 0) - 1 - start) // step), step=step)
    choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
    return CategoricalDistribution(choices)


def _study(settings: Mapping[str, Any], folder: Path) -> optuna.Study:
    """The study in its storage, made where it is not there."""
    if not hasattr(optuna.samplers, settings["sampler"]):
        samplers = [name for name in dir(optuna.samplers) if name.endswith("Sampler")]
        raise ConfigError(f"hydra.sweeper.sampler={settings['sampler']}: Optuna has {', '.join(samplers)}.")
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it would tell of each trial on stderr
    study = optuna.create_study(
        storage=settings["storage"] or JournalStorage(JournalFileBackend(str(folder / "study.log"))),
        study_name=settings["study_name"],
        direction=settings["direction"],
        load_if_exists=True,
    )
    given = dict(settings["sampler_kwargs"])
    if given.get("seed") is not None:
        given["seed"] += len(study.trials)  # it would draw again what it drew at the study's first start
    study.sampler = getattr(optuna.samplers, settings["sampler"])(**given)
    return study


def _ask(study: optuna.Study, space: dict[str, BaseDistribution], fixed: Sequence[str]) -> Trial:
    trial = study.ask(space)
    trial.set_user_attr(_OVERRIDES, [*fixed, *(f"{key}={value}" for key, value in trial.params.items())])
    return trial


def _repeat(sweeper: Any, given: Sequence[Override]) -> list[JobReturn]:
    """Runs a trial's settings with what is given beside them, once for each of its values."""
    for one in given:
        if one.is_sweep_override() and not one.is_discrete_sweep():
            raise ConfigError(
                f"{one.input_line!r} is a range to search: a trial is run again with values, as in seed=0,1,2, or with "
                "its own where the key is left out."
            )
    study = _study(sweeper.settings, save(sweeper.config))
    jobs = [_again(study, sweeper.settings["trial"], overrides) for overrides in product(axes(given))]
    return list(sweeper.launcher.launch(jobs, initial_job_idx=0))


def _again(study: optuna.Study, number: int, given: Sequence[str]) -> list[str]:
    """The overrides of a trial, and those that are given beside them."""
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials):
        raise ConfigError(
            f"hydra.sweeper.trial={number}: study {study.study_name} has {len(trials)} trials, from 0 on."
        )
    keys = {text.partition("=")[0] for text in given}
    kept = [text for text in trials[number].user_attrs[_OVERRIDES] if text.partition("=")[0] not in keys]
    return [*kept, *given]


def _report(study: optuna.Study, trial: Trial | FrozenTrial, result: JobReturn) -> None:
    """Tells the study how a trial's run ended."""
    if result.status is JobStatus.COMPLETED:
        study.tell(trial.number, float(result.return_value))
    else:
        study.tell(trial.number, state=TrialState.FAIL)
        _logger.warning("Trial %d failed: %s", trial.number, result._return_value)


def _tell_best(study: optuna.Study) -> None:
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if not done:
        _logger.warning("No trial has ended well.")
        return
    best = study.best_trial
    settings = " ".join(f"{key}={value}" for key, value in best.params.items())
    _logger.info("Best of %d trials: number %d with %.4g, %s", len(done), best.number, best.value, settings)
