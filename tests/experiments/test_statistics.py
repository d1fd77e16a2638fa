"""Intervals are those of the textbooks."""

import numpy as np
import pytest
from scipy import stats

from defm_rl.experiments.statistics import (
    exact_test,
    iqm,
    mean,
    over_runs_and_episodes,
    performance_profile,
    probability_of_improvement,
    rate,
    stratified_bootstrap,
)


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


# Scores of two policies, (runs, tasks), and what rliable 1.2.0 makes of them (50 000 and 20 000 resamples).
X = np.array([[0.63, 0.9, 0.78], [0.23, 0.3, 0.87], [0.01, 0.82, 0.8], [0.47, 0.3, 0.28], [0.25, 0.45, 0.5]])
Y = np.array([[0.63, 1.0, 0.79], [0.62, 0.99, 0.22], [0.16, 0.61, 0.04], [0.04, 0.51, 0.47]])


def test_the_interquartile_mean_is_rliables():
    assert iqm(X) == pytest.approx(0.5011111)
    assert iqm(Y) == pytest.approx(0.51)
    # By hand: the middle half of 1 ... 8 is 3, 4, 5, 6.
    assert iqm(np.array([[1.0, 8.0], [2.0, 7.0], [3.0, 6.0], [5.0, 400.0]])) == pytest.approx((3 + 5 + 6 + 7) / 4)


def test_the_probability_of_improvement_is_rliables_and_mann_whitneys():
    assert probability_of_improvement(X, Y) == pytest.approx(0.4916667)
    assert probability_of_improvement(Y, X) == pytest.approx(1 - 0.4916667)
    by_task = [stats.mannwhitneyu(X[:, task], Y[:, task]).statistic / (len(X) * len(Y)) for task in range(3)]
    assert probability_of_improvement(X, Y) == pytest.approx(np.mean(by_task))
    with pytest.raises(ValueError, match="same tasks"):
        probability_of_improvement(X, Y[:, :2])


def test_bootstrap_intervals_are_rliables_but_for_chance():
    over_runs = stratified_bootstrap(iqm, X)
    assert over_runs["value"] == iqm(X)
    assert (over_runs["low"], over_runs["high"]) == pytest.approx((0.34777778, 0.66777778), abs=0.02)
    better = stratified_bootstrap(probability_of_improvement, X, Y)
    assert (better["low"], better["high"]) == pytest.approx((0.29166667, 0.7), abs=0.02)
    assert better["runs"] == 4


def test_runs_are_resampled_within_their_task():
    # Tasks of very different difficulty and runs that agree: an interval over all scores mixed would be wide.
    scores = np.array([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9]])
    interval = stratified_bootstrap(lambda matrix: float(matrix.mean()), scores)
    assert (interval["low"], interval["high"]) == pytest.approx((0.5, 0.5))


def test_runs_that_agree_still_have_the_width_of_their_episodes():
    rng = np.random.default_rng(0)
    runs = [rng.permutation(np.arange(100) < 80).astype(float) for _ in range(3)]
    estimate = over_runs_and_episodes(runs)
    error = np.sqrt(0.8 * 0.2 / 300)
    assert (estimate["value"], estimate["runs"]) == (pytest.approx(0.8), 3)
    assert (estimate["low"], estimate["high"]) == pytest.approx((0.8 - 1.96 * error, 0.8 + 1.96 * error), abs=0.01)
    # Runs that differ much: what their episodes add is little.
    apart = over_runs_and_episodes([np.full(100, value) for value in (0.0, 0.5, 1.0)])
    assert (apart["low"], apart["high"]) == pytest.approx((0, 1), abs=0.17)
    with pytest.raises(ValueError, match="at least one run"):
        over_runs_and_episodes([])


def test_a_single_run_has_no_interval_over_runs():
    assert stratified_bootstrap(iqm, X[:1]) == {"value": iqm(X[:1]), "low": None, "high": None, "runs": 1}
    with pytest.raises(ValueError, match="matrix"):
        stratified_bootstrap(iqm, np.empty((0, 3)))


def test_a_profile_is_the_share_of_scores_above_each_threshold():
    assert performance_profile(X, np.array([0.0, 0.5, 0.8])) == pytest.approx([1.0, 6 / 15, 3 / 15])


def test_an_exact_test_tells_a_difference_from_chance():
    def flips(successes, episodes):
        return [True] * successes + [False] * (episodes - successes)

    assert exact_test(flips(25, 50), flips(29, 50)) > 0.4
    assert exact_test(flips(10, 50), flips(40, 50)) < 1e-6
    assert exact_test(flips(5, 5), flips(9, 9)) == exact_test(flips(0, 5), flips(0, 9)) == 1.0
    # Barnard 1945 as worked in SciPy's documentation: 7 of 15 against 12 of 15 fall ill.
    assert exact_test(flips(7, 15), flips(12, 15)) == pytest.approx(0.0680, abs=2e-3)
    # Many episodes: Fisher's p, from the hypergeometric distribution.
    table = [[500, 520], [100, 80]]
    assert exact_test(flips(500, 600), flips(520, 600)) == pytest.approx(stats.fisher_exact(table).pvalue)
