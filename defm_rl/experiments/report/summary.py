"""Everything a report says, as plain data: what report.json holds, and what the tables and charts are drawn from."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defm_rl.experiments import statistics
from defm_rl.experiments.config import ConfigError, suggest
from defm_rl.experiments.episodes import Episode
from defm_rl.experiments.evaluation import Cell
from defm_rl.experiments.report.arms import Arm, encoder_name

Results = Mapping[tuple[Arm, str], Sequence[tuple[Cell, list[Episode]]]]
"""The finished cells of each arm and sensor, with their episodes."""

PROFILE_THRESHOLDS = np.linspace(0, 1, 101)


def summarize(results: Results, arms: Sequence[Arm], sensors: Sequence[str], measure: str) -> dict[str, Any]:
    """The policies' part of a report.

    Args:
        results: The finished cells.
        arms: The policies, in the order of the report.
        sensors: The sensors, in the order of the report.
        measure: "success", or one of the task's own measures. Where a task knows of no success, it is the reward.

    Raises:
        ConfigError: Where a task does not report this measure.
    """
    everything = [episodes for cells in results.values() for _, episodes in cells]
    if measure == "success" and any(episode.success is None for episodes in everything for episode in episodes):
        measure = "reward"  # all that such a task tells
    for episodes in everything:
        _check_measure(episodes, measure)
    return {
        "measure": measure,
        "sensors": list(sensors),
        "policies": [_policy(results, arm, sensors, measure) for arm in arms],
        "comparisons": [
            compared
            for better, worse in itertools.combinations(arms, 2)
            if better.task == worse.task and (compared := _compared(results, better, worse, sensors, measure))
        ],
    }


def paired(results: Results, one: tuple[Arm, str], other: tuple[Arm, str]) -> tuple[list[bool], list[bool]]:
    """Success of an arm behind a sensor and of another, on the layouts that both have driven, in the same order."""
    x, y = (
        {
            (str(cell.run.folder), episode.layout): bool(episode.success)
            for cell, episodes in results.get(key, ())
            for episode in episodes
            if episode.success is not None
        }
        for key in (one, other)
    )
    shared = [key for key in x if key in y]
    return [x[key] for key in shared], [y[key] for key in shared]


def rows(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The policies' part of a report as a flat table: a row for each policy and sensor."""
    table = []
    for policy in summary["policies"]:
        for sensor, seen in policy["by_sensor"].items():
            figure, drop = seen["figure"], seen["drop"] or {}
            table.append(
                {
                    "task": policy["task"],
                    "policy": policy["name"],
                    "weights": policy["weights"],
                    "trained_with": policy["trained_with"],
                    "sensor": sensor,
                    "measure": summary["measure"],
                    **{key: figure[key] for key in ("value", "low", "high", "interval", "runs", "episodes")},
                    "drop": drop.get("value"),
                    "drop_low": drop.get("low"),
                    "drop_high": drop.get("high"),
                    **{f"mean_{name}": value for name, value in seen["means"].items()},
                    **{f"failed_{name}": count for name, count in seen["failures"].items()},
                }
            )
    return table


def values(episodes: Sequence[Episode], measure: str) -> NDArray[np.float64]:
    """The measure of each episode."""
    return np.array([_measure(episode, measure) for episode in episodes], float)


def _measure(episode: Episode, measure: str) -> float:
    if measure in ("success", "steps", "reward"):
        return float(getattr(episode, measure))
    return float(episode.measures[measure])


def _check_measure(episodes: Sequence[Episode], measure: str) -> None:
    known = ["success", "steps", "reward", *episodes[0].measures]
    if measure not in known:
        raise ConfigError(
            f"measure={measure}: the task does not report it.{suggest(measure, known)} There is: {', '.join(known)}."
        )
    if np.isnan(values(episodes, measure)).any():
        raise ConfigError(f"measure={measure}: only some episodes have it; the main measure is one that all have.")


def _policy(results: Results, arm: Arm, sensors: Sequence[str], measure: str) -> dict[str, Any]:
    seen_with = [sensor for sensor in sensors if results.get((arm, sensor))]
    trained = results.get((arm, arm.trained_with), ())
    unseen = [sensor for sensor in seen_with if sensor != arm.trained_with]
    return {
        "name": arm.name,
        "task": arm.task,
        "encoder": encoder_name(arm.config),
        "weights": arm.config.encoder.weights if arm.config.encoder.kind == "defm" else None,
        "trained_with": arm.trained_with,
        "by_sensor": {sensor: _seen(results[arm, sensor], trained, measure) for sensor in seen_with},
        "unseen_sensors": {"sensors": unseen, **_over_sensors(statistics.iqm, _scores(results, arm, unseen, measure))}
        if unseen and _scores(results, arm, unseen, measure).size
        else None,
        "profile": _profile(_scores(results, arm, seen_with, measure)),
        "runs": [
            {
                "folder": str(run.folder),
                "seed": config.seed,
                "steps": run.state()["steps"],
                "encoder": run.state()["encoder"],
                "evaluated": {
                    sensor: cell.metrics()["made_by"]
                    for sensor in seen_with
                    for cell, _ in results[arm, sensor]
                    if cell.run == run
                },
            }
            for run, config in zip(arm.runs, arm.configs, strict=True)
            if any(cell.run == run for sensor in seen_with for cell, _ in results[arm, sensor])
        ],
    }


def _seen(
    cells: Sequence[tuple[Cell, list[Episode]]], trained: Sequence[tuple[Cell, list[Episode]]], measure: str
) -> dict[str, Any]:
    """One policy behind one sensor."""
    everything = [episode for _, episodes in cells for episode in episodes]
    return {
        "figure": _figure([values(episodes, measure) for _, episodes in cells], rate=_is_rate(everything, measure)),
        "by_run": {str(cell.run.folder): float(values(episodes, measure).mean()) for cell, episodes in cells},
        "drop": _drop(cells, trained, measure),
        "failures": dict(Counter(episode.failure for episode in everything if episode.failure).most_common()),
        "means": {
            name: _mean_of_those_that_have_it(values(everything, name))
            for name in ("success", *everything[0].measures, "steps", "reward")
            if name != "success" or everything[0].success is not None
        },
    }


def _mean_of_those_that_have_it(figures: NDArray[np.float64]) -> float | None:
    """NaN: an episode has no such figure, as a failure has no time to success."""
    known = figures[~np.isnan(figures)]
    return float(known.mean()) if known.size else None


def _is_rate(episodes: Sequence[Episode], measure: str) -> bool:
    return measure == "success" or isinstance(episodes[0].measures.get(measure), bool)


def _figure(runs: Sequence[NDArray[np.float64]], *, rate: bool) -> dict[str, Any]:
    """One run: over its episodes. Several: the mean of their means, over the runs and their episodes."""
    episodes = sum(map(len, runs))
    if len(runs) > 1:
        return {
            **statistics.over_runs_and_episodes(runs),
            "episodes": episodes,
            "interval": "bootstrap over runs and episodes",
        }
    estimate = statistics.rate(runs[0].astype(bool)) if rate else statistics.mean(runs[0])
    return {
        "value": estimate["mean"],
        "low": estimate["low"],
        "high": estimate["high"],
        "runs": 1,
        "episodes": episodes,
        "interval": "Wilson" if rate else "bootstrap over episodes",
    }


def _drop(
    cells: Sequence[tuple[Cell, list[Episode]]], trained: Sequence[tuple[Cell, list[Episode]]], measure: str
) -> dict[str, Any] | None:
    """How much is lost against the sensor of the training, on the same layouts; None for that sensor itself."""
    before = {cell.run: episodes for cell, episodes in trained if cell.run}
    pairs = [
        values(before[cell.run], measure) - values(episodes, measure)
        for cell, episodes in cells
        if cell.run in before and before[cell.run] is not episodes
    ]
    return _figure(pairs, rate=False) if pairs else None


def _scores(results: Results, arm: Arm, sensors: Sequence[str], measure: str) -> statistics.Scores:
    """(runs, sensors): the mean of each run that has been behind all of these sensors."""
    by_run: dict[str, list[float]] = {}
    for sensor in sensors:
        for cell, episodes in results.get((arm, sensor), ()):
            by_run.setdefault(str(cell.run.folder), []).append(float(values(episodes, measure).mean()))
    return np.array([scores for scores in by_run.values() if len(scores) == len(sensors)]).reshape(-1, len(sensors))


def _over_sensors(statistic: Callable[..., float], *scores: statistics.Scores) -> dict[str, Any]:
    return dict(statistics.stratified_bootstrap(statistic, *scores))


def _profile(scores: statistics.Scores) -> dict[str, Any] | None:
    """Share of runs and sensors above each threshold; for measures between 0 and 1."""
    if not scores.size or scores.min() < 0 or scores.max() > 1:
        return None
    return {
        "thresholds": PROFILE_THRESHOLDS.tolist(),
        "shares": statistics.performance_profile(scores, PROFILE_THRESHOLDS).tolist(),
        "runs": len(scores),
        "sensors": scores.shape[1],
    }


def _compared(results: Results, better: Arm, worse: Arm, sensors: Sequence[str], measure: str) -> dict[str, Any] | None:
    """One policy against another, over the sensors that both have been behind."""
    shared = [sensor for sensor in sensors if results.get((better, sensor)) and results.get((worse, sensor))]
    x, y = (_scores(results, arm, shared, measure) for arm in (better, worse))
    if not x.size or not y.size:
        return None
    by_sensor = {}
    for sensor in shared:
        a, b = ([e for _, episodes in results[arm, sensor] for e in episodes] for arm in (better, worse))
        by_sensor[sensor] = {
            "difference": float(values(a, measure).mean() - values(b, measure).mean()),
            "p_value": statistics.exact_test(
                [bool(v) for v in values(a, measure)], [bool(v) for v in values(b, measure)]
            )
            if _is_rate(a, measure)
            else None,
        }
    return {
        "better": better.name,
        "worse": worse.name,
        "task": better.task,
        "probability": _over_sensors(statistics.probability_of_improvement, x, y),
        "difference": _over_sensors(lambda a, b: float(a.mean() - b.mean()), x, y),
        "by_sensor": by_sensor,
    }
