"""A sensor's loss taken apart: which of its effects costs what, and what is said to help."""

import dataclasses
from pathlib import Path

import pytest

from defm_rl.experiments import statistics
from defm_rl.experiments.episodes import Episode
from defm_rl.experiments.evaluation import Cell, Options
from defm_rl.experiments.report.arms import Arm
from defm_rl.experiments.report.losses import taken_apart
from defm_rl.experiments.runs import Run

RUN = Run(Path("runs/one"))


class OneTask(Arm):
    task = "a task"


ARM = OneTask("policy", (RUN,), ())


def results(arm, **successes):
    """The first so many of 100 layouts succeed behind each sensor."""
    return {
        (arm, name): [(Cell(RUN, name, Options()), [Episode(i, i < count, "", 1, 0.0) for i in range(100)])]
        for name, count in successes.items()
    }


def row(sensor, arm=ARM, **successes):
    (found,) = taken_apart(results(arm, **successes), [arm], ["ideal", sensor])
    return found["by_sensor"][sensor]


ZEDX = {"ideal": 98, "zedx": 70, "zedx_without_range": 70}


def test_what_comes_back_without_an_effect_is_what_it_costs_and_its_remedy_is_named():
    found = row("zedx", **ZEDX, zedx_without_noise=72, zedx_without_latency=95)
    assert found["loss"] == pytest.approx(0.28)
    assert found["parts"]["latency"]["gain"] == pytest.approx(0.25)
    assert found["parts"]["range"]["p_value"] == 1
    assert "Latency costs 25.0 points" in found["advice"]
    assert "adapting does not mend it" in found["advice"]
    assert "Noise" not in found["advice"]


def test_a_camera_without_noise_is_taken_apart_like_others():
    without = {f"zedx_without_noise_without_{part}": count for part, count in (("range", 70), ("latency", 95))}
    found = row("zedx_without_noise", ideal=98, zedx_without_noise=70, **without)
    assert found["parts"].keys() == {"range", "latency"}
    assert "such as env.sensor=zedx_without_noise and" in found["advice"]


def test_noise_is_answered_by_adapting_and_where_it_is_adapted_by_something_else():
    seen = {**ZEDX, "zedx_without_noise": 95, "zedx_without_latency": 71}
    assert "defm-rl adapt runs/one sensors=[zedx]" in row("zedx", **seen)["advice"]
    adapted = dataclasses.replace(ARM, adapted=Path("x.safetensors"))
    assert "adapted already" in row("zedx", adapted, **seen)["advice"]


def test_range_is_answered_by_another_camera_and_several_causes_come_in_their_order():
    found = row("zedx", ideal=98, zedx=20, zedx_without_noise=60, zedx_without_range=90, zedx_without_latency=20)
    assert found["advice"].index("Range costs 70.0") < found["advice"].index("Noise costs 40.0")
    assert "0.25 to 10 m" in found["advice"]


def test_nothing_is_said_to_be_lost_where_chance_could_have_done_it():
    found = row("zedx", ideal=98, zedx=95, zedx_without_noise=96, zedx_without_range=95, zedx_without_latency=97)
    assert found["advice"] == "Nothing is lost that 100 episodes could show."


def test_where_no_effect_alone_explains_it_that_is_said():
    found = row("zedx", ideal=98, zedx=50, zedx_without_noise=51, zedx_without_range=50, zedx_without_latency=52)
    assert "No single part explains it" in found["advice"]


def test_mcnemar_looks_at_layouts_on_which_the_two_differ():
    # 1 against 9 of 10 discordant pairs: 2 (1 + 10) / 1024.
    one, other = [True] * 1 + [False] * 9 + [True] * 50, [False] * 1 + [True] * 9 + [True] * 50
    assert statistics.paired_test(one, other) == pytest.approx(22 / 1024)
    assert statistics.paired_test(one, one) == 1
    with pytest.raises(ValueError, match="on every layout"):
        statistics.paired_test([True], [True, False])
