"""A sweep in figures: its runs, finished or not, by setting; settings are what differs between runs but for the seed.

Over runs it follows Agarwal et al. 2021 (arXiv 2108.13264), see `statistics`.
"""

import itertools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from defm_rl.experiments import statistics
from defm_rl.experiments.config import Config, ConfigError, suggest
from defm_rl.experiments.outcomes import Outcome
from defm_rl.experiments.report.arms import names_of, settings_of, task_name
from defm_rl.experiments.report.summary import PROFILE_THRESHOLDS
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.saved import read_config
from defm_rl.experiments.status import State

_SEED = re.compile(r"^seed: (-?\d+)\n", re.MULTILINE)
_PAIRS = 28  # of settings that are compared, those of the best first: eight settings are all compared


@dataclass(frozen=True)
class Group:
    """The runs of one setting on one task, finished or not, in order of their seeds.

    Attributes:
        name: What sets the setting apart.
        task: Environment and level.
        config: Of one of the runs; the others' differ in their seeds.
        runs: Each with its seed.
    """

    name: str
    task: str
    config: Config
    runs: tuple[tuple[int, Outcome], ...]

    @property
    def finished(self) -> list[tuple[int, Outcome]]:
        """Those that were evaluated."""
        return [(seed, outcome) for seed, outcome in self.runs if outcome.metrics is not None]


def grouped(outcomes: Sequence[Outcome]) -> list[Group]:
    """Puts runs into settings, in the order in which these first come.

    A run's task is no part of its setting, so that settings can be held against each other over several tasks.

    Raises:
        ConfigError: Where a run's configuration cannot be read.
    """
    texts = [(outcome.run.folder / "config.yaml").read_text() for outcome in outcomes]
    seeds = [int(found[1]) if (found := _SEED.search(text)) else 0 for text in texts]
    kinds = [_SEED.sub("", text) for text in texts]
    # Reading a configuration takes far longer than reading its text: once for all seeds.
    folders = dict(zip(kinds, (outcome.run.folder for outcome in outcomes), strict=True))
    configs = {kind: to_config(read_config(folder / "config.yaml")) for kind, folder in folders.items()}
    tasks = {kind: task_name(config) for kind, config in configs.items()}
    settings = _settings(configs, tasks)
    first = {repr(values): kind for kind, values in reversed(settings.items())}
    labels = names_of([configs[kind] for kind in first.values()], [settings[kind] for kind in first.values()])
    names = dict(zip(first, labels, strict=True))
    members: dict[tuple[str, str], list[int]] = {}
    for index, kind in enumerate(kinds):
        members.setdefault((names[repr(settings[kind])], tasks[kind]), []).append(index)
    return [
        Group(
            name,
            task,
            configs[kinds[indices[0]]],
            tuple(sorted(((seeds[i], outcomes[i]) for i in indices), key=lambda run: run[0])),
        )
        for (name, task), indices in members.items()
    ]


def _settings(configs: Mapping[str, Config], tasks: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """The settings by dotted keys; of the environment's, those that differ between runs on the same task."""
    settings = {kind: settings_of(config) for kind, config in configs.items()}
    differ = {
        key
        for one, other in itertools.combinations(settings, 2)
        if tasks[one] == tasks[other]
        for key in settings[one].keys() | settings[other].keys()
        if settings[one].get(key) != settings[other].get(key)
    }
    return {
        kind: {key: value for key, value in values.items() if key in differ or not key.startswith("env.")}
        for kind, values in settings.items()
    }


def summarize(outcomes: Sequence[Outcome], measure: str) -> tuple[dict[str, Any], list[Group]]:
    """What report.json holds of a sweep, and its settings.

    Args:
        outcomes: The runs.
        measure: "success", or another figure of the evaluations. Where a task knows of no success, it is the reward.

    Raises:
        ConfigError: Where an evaluation does not have this measure, or a run cannot be read.
    """
    groups = grouped(outcomes)
    finished = [outcome for outcome in outcomes if outcome.metrics is not None]
    if measure == "success" and any("success_rate" not in outcome.evaluation for outcome in finished):
        measure = "reward"
    for outcome in finished:
        _check_measure(outcome, measure)
    tasks = list(dict.fromkeys(group.task for group in groups))
    by_task = {task: [group for group in groups if group.task == task] for task in tasks}
    sections = [_section(task, {group.name: [group] for group in by_task[task]}, measure) for task in tasks]
    if len(tasks) > 1:
        whole = {name: own for name, own in _by_name(groups).items() if len(own) == len(tasks)}
        if whole:
            sections.insert(0, _section("All tasks", whole, measure))
    counts = Counter(outcome.status.state for outcome in outcomes)
    content = {
        "measure": measure,
        "states": {state.value: counts[state] for state in State if counts[state]},
        "missing": _missing(groups),
        "sections": sections,
        "runs": [_row(group, seed, outcome, measure) for group in groups for seed, outcome in group.runs],
        "random_weights": list(dict.fromkeys(group.name for group in groups if _random(group))),
    }
    return content, groups


def score(outcome: Outcome, measure: str) -> float:
    """A finished run's figure."""
    return float(_figure(outcome, measure)["mean"])


def _figure(outcome: Outcome, measure: str) -> dict[str, Any]:
    evaluation = outcome.evaluation
    figure: dict[str, Any] = evaluation.get(f"{measure}_rate") or evaluation[measure]
    return figure


def _check_measure(outcome: Outcome, measure: str) -> None:
    known = [name.removesuffix("_rate") for name in outcome.evaluation if name != "failures"]
    if measure not in known:
        raise ConfigError(
            f"measure={measure}: the evaluation of {outcome.run.folder} does not have it.{suggest(measure, known)} "
            f"There is: {', '.join(known)}."
        )


def _by_name(groups: Sequence[Group]) -> dict[str, list[Group]]:
    found: dict[str, list[Group]] = {}
    for group in groups:
        found.setdefault(group.name, []).append(group)
    return found


def _section(title: str, settings: Mapping[str, Sequence[Group]], measure: str) -> dict[str, Any]:
    """One task, or all of them: a setting has a group of runs for each."""
    scores = {name: _scores(own, measure) for name, own in settings.items()}
    known = [matrix for matrix in scores.values() if matrix.size]
    everything = np.concatenate([matrix.ravel() for matrix in known]) if known else np.zeros(1)
    thresholds = PROFILE_THRESHOLDS
    if everything.min() < 0 or everything.max() > 1:
        thresholds = np.linspace(everything.min(), everything.max(), len(PROFILE_THRESHOLDS))
    return {
        "title": title,
        "settings": [_setting(name, own, scores[name], thresholds, measure) for name, own in settings.items()],
        "comparisons": _comparisons({name: matrix for name, matrix in scores.items() if matrix.size}),
    }


def _scores(groups: Sequence[Group], measure: str) -> statistics.Scores:
    """(runs, tasks). Over several tasks, of the seeds that are finished on all of them."""
    if len(groups) == 1:
        return np.array([[score(outcome, measure)] for _, outcome in groups[0].finished]).reshape(-1, 1)
    columns = [{seed: score(outcome, measure) for seed, outcome in group.finished} for group in groups]
    shared = [seed for seed in columns[0] if all(seed in column for column in columns)]
    return np.array([[column[seed] for column in columns] for seed in shared]).reshape(-1, len(columns))


def _setting(
    name: str, groups: Sequence[Group], scores: statistics.Scores, thresholds: statistics.Scores, measure: str
) -> dict[str, Any]:
    finished = [outcome for group in groups for _, outcome in group.finished]
    walls = [outcome.wall_s for outcome in finished if outcome.wall_s is not None]
    memory = [outcome.peak_memory_mb for outcome in finished if outcome.peak_memory_mb is not None]
    bands = statistics.performance_profile_interval(scores, thresholds) if len(scores) > 1 else None
    return {
        "name": name,
        "runs": sum(len(group.runs) for group in groups),
        "finished": len(finished),
        "iqm": dict(statistics.stratified_bootstrap(statistics.iqm, scores)) if scores.size else None,
        "scores": scores.ravel().tolist(),
        "by_run": [
            {"folder": str(o.run.folder), "score": score(o, measure), "wall_s": o.wall_s, "memory_mb": o.peak_memory_mb}
            for o in finished
        ],
        "profile": {
            "thresholds": thresholds.tolist(),
            "shares": statistics.performance_profile(scores, thresholds).tolist(),
            "low": None if bands is None else bands[0].tolist(),
            "high": None if bands is None else bands[1].tolist(),
        }
        if scores.size
        else None,
        "wall_s": {"median": float(np.median(walls)), "total": float(np.sum(walls))} if walls else None,
        "memory_mb": max(memory) if memory else None,
    }


def _comparisons(scores: Mapping[str, statistics.Scores]) -> list[dict[str, Any]]:
    """The likelier winner of each pair of settings first; the best settings' pairs where there are too many."""
    ranked = sorted(scores, key=lambda name: -statistics.iqm(scores[name]))
    return [
        {
            "better": better,
            "worse": worse,
            "probability": dict(
                statistics.stratified_bootstrap(statistics.probability_of_improvement, scores[better], scores[worse])
            ),
            "difference": dict(statistics.stratified_bootstrap(_difference, scores[better], scores[worse])),
        }
        for better, worse in itertools.islice(itertools.combinations(ranked, 2), _PAIRS)
    ]


def _difference(better: statistics.Scores, worse: statistics.Scores) -> float:
    return statistics.iqm(better) - statistics.iqm(worse)


def _missing(groups: Sequence[Group]) -> list[str]:
    """Runs that are not finished, and seeds that a setting lacks and others have."""
    seeds = sorted({seed for group in groups for seed, _ in group.runs})
    told = []
    for group in groups:
        for _, outcome in group.runs:
            if outcome.metrics is None:
                total = f" of {outcome.total_steps:,}" if outcome.total_steps else ""
                reason = f" ({outcome.status.reason})" if outcome.status.reason else ""
                told.append(
                    f"{outcome.run.folder}: {outcome.status.state.value}{reason}, {outcome.steps:,}{total} steps"
                )
        lacks = [str(seed) for seed in seeds if seed not in {own for own, _ in group.runs}]
        if lacks:
            told.append(f"{group.name}, {group.task}: no run with seed {', '.join(lacks)}, which others have")
    return told


def _row(group: Group, seed: int, outcome: Outcome, measure: str) -> dict[str, Any]:
    """A run, flat."""
    figure = _figure(outcome, measure) if outcome.metrics is not None else {}
    training = {} if outcome.metrics is None else outcome.metrics["training"]
    return {
        "run": str(outcome.run.folder),
        "task": group.task,
        "setting": group.name,
        "seed": seed,
        "state": outcome.status.state.value,
        "reason": outcome.status.reason,
        "measure": measure,
        "mean": figure.get("mean"),
        "low": figure.get("low"),
        "high": figure.get("high"),
        "episodes": figure.get("episodes"),
        "steps": outcome.steps,
        "wall_s": outcome.wall_s,
        "training_s": training.get("seconds"),
        "peak_memory_mb": outcome.peak_memory_mb,
        "peak_gpu_memory_mb": training.get("peak_gpu_memory_mb"),
        "weights": group.config.encoder.weights if group.config.encoder.kind == "defm" else None,
        "digest": outcome.status.digest,
    }


def _random(group: Group) -> bool:
    return group.config.encoder.kind == "defm" and group.config.encoder.weights == "random"
