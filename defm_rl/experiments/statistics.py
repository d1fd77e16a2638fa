"""Interval estimates for what an evaluation counts and averages."""

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
from scipy import stats


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
    test = stats.binomtest(int(outcomes.sum()), outcomes.size)
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
        interval = stats.bootstrap(
            (sample,), np.mean, confidence_level=confidence, method="percentile", n_resamples=10_000, rng=seed
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Estimate(mean=float(sample.mean()), low=low, high=high, episodes=sample.size)
