"""Interval estimates for what an evaluation counts and averages, and how policies of several runs are compared.

Over runs it follows Agarwal et al. 2021 (arXiv 2108.13264).
"""

from collections.abc import Callable, Sequence
from typing import TypedDict

import numpy as np
import scipy  # whose parts are imported when they are asked for
from numpy.typing import NDArray

_BARNARD_EPISODES = 250


class Estimate(TypedDict):
    """A figure with its 95 % confidence interval and the number of episodes behind it."""

    mean: float
    low: float
    high: float
    episodes: int


def rate(successes: Sequence[bool] | np.ndarray, confidence: float = 0.95) -> Estimate:
    """Share of successes with Wilson's score interval (Wilson 1927), which holds at 0 % and 100 % too."""
    outcomes = np.asarray(successes, dtype=bool)
    if outcomes.size == 0:
        raise ValueError("A rate needs at least one episode, got none.")
    test = scipy.stats.binomtest(int(outcomes.sum()), outcomes.size)
    interval = test.proportion_ci(confidence, method="wilson")
    return Estimate(
        mean=float(outcomes.mean()), low=float(interval.low), high=float(interval.high), episodes=outcomes.size
    )


def mean(values: Sequence[float] | np.ndarray, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Mean with a percentile bootstrap interval over 10 000 resamples."""
    sample = np.asarray(values, dtype=float)
    if sample.size == 0:
        raise ValueError("A mean needs at least one episode, got none.")
    if np.ptp(sample) == 0.0:  # nothing to resample
        low = high = float(sample[0])
    else:
        interval = scipy.stats.bootstrap(
            (sample,), np.mean, confidence_level=confidence, method="percentile", n_resamples=10_000, rng=seed
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Estimate(mean=float(sample.mean()), low=low, high=high, episodes=sample.size)


class Aggregate(TypedDict):
    """A figure over several training runs; without an interval where there is a single one."""

    value: float
    low: float | None
    high: float | None
    runs: int


Scores = NDArray[np.float64]
"""(runs, tasks): the score of each training run on each task; a column per task."""


def iqm(scores: Scores) -> float:
    """Interquartile mean: the mean of the middle half of all runs' scores on all tasks (Agarwal et al. 2021).

    A quarter of the scores, rounded down, is left out at each end; with fewer than four scores it is the mean.
    """
    ordered = np.sort(np.asarray(scores, float), axis=None)
    cut = ordered.size // 4
    return float(ordered[cut : ordered.size - cut].mean())


def stratified_bootstrap(
    statistic: Callable[..., float], *scores: Scores, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Aggregate:
    """A statistic with its percentile interval over runs that are resampled within each task (Agarwal et al. 2021).

    Args:
        statistic: Takes as many score matrices as are given.
        *scores: Matrices of (runs, tasks), one for each policy; their numbers of runs may differ.
        confidence: Of the interval.
        resamples: How many.
        seed: Of the resampling.

    Returns:
        The statistic of the scores themselves and the interval; the latter is None where a policy has a single run,
        which says nothing about other runs.

    Raises:
        ValueError: Where a matrix holds no score.
    """
    matrices = [_matrix(matrix) for matrix in scores]
    value, runs = float(statistic(*matrices)), min(len(matrix) for matrix in matrices)
    if runs < 2:
        return Aggregate(value=value, low=None, high=None, runs=runs)
    rng = np.random.default_rng(seed)
    resampled = [
        statistic(
            *(matrix[rng.integers(len(matrix), size=matrix.shape), np.arange(matrix.shape[1])] for matrix in matrices)
        )
        for _ in range(resamples)
    ]
    low, high = np.quantile(resampled, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Aggregate(value=value, low=float(low), high=float(high), runs=runs)


def over_runs_and_episodes(
    runs: Sequence[NDArray[np.float64]], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> Aggregate:
    """Mean of the runs' means, with a percentile bootstrap over the runs and, within each, over its episodes.

    With the handful of runs that there are, a bootstrap over runs alone is too narrow: it is nothing where two runs
    happen to agree, however few their episodes.

    Args:
        runs: The figures of each run's episodes.
        confidence: Of the interval.
        resamples: How many.
        seed: Of the resampling.

    Raises:
        ValueError: Where there is no run, or one without episodes.
    """
    if not runs or not all(len(run) for run in runs):
        raise ValueError("A mean over runs needs at least one run, and an episode in each.")
    rng = np.random.default_rng(seed)
    # For each resample, a mean of resampled episodes of every run; then runs are drawn from these.
    means = np.stack([run[rng.integers(len(run), size=(resamples, len(runs), len(run)))].mean(axis=2) for run in runs])
    drawn = rng.integers(len(runs), size=(resamples, len(runs)))
    resampled = means[drawn, np.arange(resamples)[:, None], np.arange(len(runs))].mean(axis=1)
    low, high = np.quantile(resampled, ((1 - confidence) / 2, (1 + confidence) / 2))
    return Aggregate(
        value=float(np.mean([run.mean() for run in runs])), low=float(low), high=float(high), runs=len(runs)
    )


def probability_of_improvement(better: Scores, worse: Scores) -> float:
    """P(X > Y): how likely a run of one policy is above a run of another, averaged over tasks (Agarwal et al. 2021).

    Within a task it is the Mann-Whitney U statistic over the number of pairs; a tie counts half.

    Args:
        better: Scores of X, (runs of X, tasks).
        worse: Scores of Y, (runs of Y, tasks).

    Raises:
        ValueError: Where the tasks are not the same in number.
    """
    x, y = _matrix(better), _matrix(worse)
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"Both policies need scores on the same tasks, got {x.shape[1]} and {y.shape[1]} columns.")
    difference = x[:, None] - y[None]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def performance_profile(scores: Scores, thresholds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of all runs' scores on all tasks above each threshold (Agarwal et al. 2021); (thresholds,)."""
    return (_matrix(scores).ravel() > np.asarray(thresholds)[:, None]).mean(axis=1)


def performance_profile_interval(
    scores: Scores, thresholds: NDArray[np.float64], confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pointwise percentile intervals of a performance profile, runs resampled within each task (Agarwal et al. 2021).

    Returns:
        The lower and the upper end at each threshold; (thresholds,) each.
    """
    matrix = _matrix(scores)
    runs, tasks = matrix.shape
    drawn = np.random.default_rng(seed).integers(runs, size=(resamples, runs, tasks))
    resampled = matrix[drawn, np.arange(tasks)].reshape(resamples, -1)
    shares = np.stack([(resampled > threshold).mean(axis=1) for threshold in thresholds])
    low, high = np.quantile(shares, ((1 - confidence) / 2, (1 + confidence) / 2), axis=1)
    return low, high


def exact_test(successes: Sequence[bool] | NDArray[np.bool_], others: Sequence[bool] | NDArray[np.bool_]) -> float:
    """An exact test of two independent success rates: Barnard's, or Fisher's where there are many episodes.

    Barnard's (1945) sees more in few episodes. Its time grows with the product of their numbers, while the two come to
    agree: beyond 250 episodes on a side Fisher's stands in, which errs towards no difference.

    Returns:
        The two-sided p value: how likely rates at least this far apart are where both are the same.

    Raises:
        ValueError: Where one of the two has no episodes.
    """
    a, b = np.asarray(successes, bool), np.asarray(others, bool)
    if not a.size or not b.size:
        raise ValueError("Rates to compare need at least one episode each.")
    together = np.concatenate([a, b])
    if together.all() or not together.any():
        return 1.0  # all or nothing on both sides: the tests are not defined, and there is no difference
    table = np.array([[a.sum(), b.sum()], [(~a).sum(), (~b).sum()]])
    test = scipy.stats.barnard_exact if max(a.size, b.size) <= _BARNARD_EPISODES else scipy.stats.fisher_exact
    return float(test(table).pvalue)


def paired_test(successes: Sequence[bool] | NDArray[np.bool_], others: Sequence[bool] | NDArray[np.bool_]) -> float:
    """McNemar's exact test (1947) of two success rates on the same layouts, in the same order.

    Only layouts on which one succeeds and the other fails say anything: without a difference each of these is a toss of
    a fair coin.

    Returns:
        The two-sided p value; 1 where there are no such layouts.

    Raises:
        ValueError: Where the two have different numbers of episodes, or none.
    """
    a, b = np.asarray(successes, bool), np.asarray(others, bool)
    if not a.size or a.shape != b.shape:
        raise ValueError(f"Pairs need an episode of each on every layout, got {a.size} and {b.size} episodes.")
    better, worse = int((a & ~b).sum()), int((~a & b).sum())
    return float(scipy.stats.binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _matrix(scores: Scores) -> Scores:
    matrix = np.asarray(scores, float)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"Scores are a matrix of (runs, tasks) with at least one of each, got shape {matrix.shape}.")
    return matrix
