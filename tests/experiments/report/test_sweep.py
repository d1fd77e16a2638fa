"""A sweep's figures against those by hand, and its page, finished or not."""

import csv
import json
import re

import numpy as np
import pytest
from made_up_sweep import make_run
from test_page import Outline

from defm_rl.commands import report
from defm_rl.experiments.outcomes import outcomes_below
from defm_rl.experiments.report.sweep import grouped
from defm_rl.experiments.statistics import performance_profile_interval

SUCCESS = {"cnn": [0.5, 0.6, 0.7, 0.9], "blind": [0.1, 0.2, 0.6, 0.3]}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    """Two encoders with four seeds each on one task; on another, the last seed of one is not finished."""
    base = tmp_path_factory.mktemp("sweep")
    for encoder, rates in SUCCESS.items():
        for seed, rate in enumerate(rates):
            overrides = [f"encoder={encoder}", "env.level=two_walls"]
            make_run(base / f"{encoder}-{seed}", overrides, seed, rate, wall_s=600 + 60 * seed)
            success = None if (encoder, seed) == ("blind", 3) else rate / 2
            make_run(base / f"{encoder}-hard-{seed}", [f"encoder={encoder}", "env.level=boxes"], seed, success)
    assert report.main([str(base), "title=Encoders"]) == 0
    return base


@pytest.fixture(scope="module")
def figures(sweep):
    return json.loads((sweep / "report" / "report.json").read_text())


def test_settings_are_what_differs_but_for_the_seed_and_the_task(sweep):
    groups = grouped(outcomes_below([sweep]))
    assert {(group.name, group.task) for group in groups} == {
        (name, f"Navigation-v0, {level}") for name in ("CNN from scratch", "blind") for level in ("two_walls", "boxes")
    }
    assert all([seed for seed, _ in group.runs] == [0, 1, 2, 3] for group in groups)


def test_figures_are_those_by_hand(figures):
    section = next(one for one in figures["sections"] if one["title"].endswith("two_walls"))
    cnn, blind = sorted(section["settings"], key=lambda setting: -setting["iqm"]["value"])
    # The middle half of four runs are the middle two.
    assert (cnn["iqm"]["value"], blind["iqm"]["value"]) == pytest.approx((0.65, 0.25))
    assert 0.5 <= cnn["iqm"]["low"] < 0.65 < cnn["iqm"]["high"] <= 0.9
    (pair,) = section["comparisons"]
    assert (pair["better"], pair["worse"]) == ("CNN from scratch", "blind")
    # Of 16 pairs of runs, 0.5 is below 0.6, and 0.6 is a tie.
    assert pair["probability"]["value"] == pytest.approx((16 - 1 - 0.5) / 16)
    assert pair["difference"]["value"] == pytest.approx(0.4)
    profile = cnn["profile"]
    assert profile["shares"][profile["thresholds"].index(0.65)] == 0.5
    assert cnn["wall_s"] == {"median": 690, "total": 2760}
    assert cnn["memory_mb"] == 803


def test_over_all_tasks_there_are_the_seeds_that_each_of_them_has(figures):
    section = figures["sections"][0]
    assert section["title"] == "All tasks"
    blind = next(setting for setting in section["settings"] if setting["name"] == "blind")
    assert (blind["finished"], blind["runs"], len(blind["scores"])) == (7, 8, 6)
    # Of 0.05, 0.1, 0.1, 0.2, 0.3, 0.6 one falls away at each end.
    assert blind["iqm"]["value"] == pytest.approx((0.1 + 0.1 + 0.2 + 0.3) / 4)


def test_every_run_is_in_the_table_of_runs(sweep):
    with (sweep / "report" / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    states = [(row["state"], row["mean"]) for row in rows if row["setting"] == "blind" and row["seed"] == "3"]
    assert sorted(states) == [("finished", "0.3"), ("interrupted", "")]


def test_the_page_is_whole_and_says_what_is_missing(sweep):
    html = (sweep / "report" / "report.html").read_text()
    outline = Outline(html)
    assert len(outline.ids) == len(set(outline.ids))
    assert all(reference.startswith("data:") or reference[1:] in outline.ids for reference in outline.references)
    assert not {"script", "link", "iframe"} & set(outline.tags)
    text = re.sub(r"\s+", " ", "".join(outline.text))
    assert "16 runs" in text
    assert "15 finished, 1 interrupted" in text
    assert "blind-hard-3: interrupted (asked to end), 1,000 of 2,000 steps" in text
    assert "65.0 %" in text
    assert "Random weights" not in text
    assert html.count("fill-opacity: 0.16") + html.count("opacity: 0.16") >= 4, "a band for each setting and task"


def test_a_sweep_without_a_finished_run_has_a_page_too(tmp_path):
    make_run(tmp_path / "0", ["encoder=efficientnet_b0", "encoder.weights=random"], 0, None)
    assert report.main([str(tmp_path), f"report={tmp_path / 'page'}"]) == 0
    text = "".join(Outline((tmp_path / "page" / "report.html").read_text()).text)
    assert "No run is finished." in text
    assert "Random weights." in text


@pytest.mark.slow
def test_another_measure_is_taken_and_one_that_is_not_there_named(sweep, tmp_path, capsys):
    assert report.main([str(sweep), "measure=reward", f"report={tmp_path}"]) == 0
    sections = json.loads((tmp_path / "report.json").read_text())["sections"]
    (easy,) = (section for section in sections if section["title"].endswith("two_walls"))
    assert {setting["name"]: setting["iqm"]["value"] for setting in easy["settings"]} == pytest.approx(
        {"CNN from scratch": 10 * 0.65 - 2, "blind": 10 * 0.25 - 2}
    )
    assert report.main([str(sweep), "measure=rewrad"]) == 2
    assert "Did you mean 'reward'" in capsys.readouterr().err
    assert report.main([str(tmp_path)]) == 2
    assert "There are no runs in" in capsys.readouterr().err


def test_a_profiles_interval_is_that_of_its_runs():
    scores = np.array([[0.2], [0.4], [0.6], [0.8]])
    low, high = performance_profile_interval(scores, np.array([0.1, 0.5, 0.9]))
    assert (low[0], high[0], low[2], high[2]) == (1, 1, 0, 0)
    assert (low[1], high[1]) == (0.0, 1.0)  # Binomial(4, 1/2): none and all have more than 2.5 % each
