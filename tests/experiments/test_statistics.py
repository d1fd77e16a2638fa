"""Intervals are those of the textbooks."""

import numpy as np
import pytest

from defm_rl.experiments.statistics import mean, rate


def test_a_rate_has_wilsons_interval():
    # Closed form of Wilson's interval, z = 1.959964 (Wilson 1927; Brown, Cai, DasGupta 2001, eq. 4).
    n, p, z = 200, 0.97, 1.959963985
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    estimate = rate([True] * 194 + [False] * 6)
    assert estimate == pytest.approx({"mean": p, "low": centre - half, "high": centre + half, "episodes": n})


def test_a_rate_of_all_or_nothing_still_has_a_width():
    assert rate([True] * 50)["low"] == pytest.approx(0.9287, abs=1e-3)
    assert rate([False] * 50)["high"] == pytest.approx(0.0713, abs=1e-3)


def test_a_mean_has_an_interval_as_wide_as_its_standard_error_says():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    estimate = mean(values)
    error = values.std() / np.sqrt(400)
    assert estimate["mean"] == pytest.approx(values.mean())
    assert estimate["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert estimate["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert mean([1.0, 1.0]) == {"mean": 1.0, "low": 1.0, "high": 1.0, "episodes": 2}


def test_no_episodes_are_no_result():
    for estimate in (rate, mean):
        with pytest.raises(ValueError, match="at least one episode"):
            estimate([])
