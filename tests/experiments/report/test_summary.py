"""What a report says follows from the episodes: rates, drops, comparisons, failures; and who is compared with whom."""

import json

import pytest

from defm_rl.experiments import statistics
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.report import summary
from defm_rl.experiments.report.arms import group
from defm_rl.experiments.runs import Run, to_config

SENSORS = ["ideal", "stereo", "zedx"]


@pytest.fixture(scope="module")
def content(study):
    arms, results = study
    return summary.summarize(results, arms, SENSORS, "success")


def by_name(content, start):
    return next(policy for policy in content["policies"] if policy["name"].startswith(start))


def test_runs_that_differ_only_in_their_seed_are_one_policy(runs):
    arms = group(runs, [run.config() for run in runs])
    assert [[run.folder.name for run in arm.runs] for arm in arms] == [
        ["defm-0", "defm-1"],
        ["noisy-0", "noisy-1"],
        ["blind-0"],
    ]
    frozen = "efficientnet_b0 (frozen, random weights)"
    assert [arm.name for arm in arms] == [
        f"{frozen}, trained with ideal",
        f"{frozen}, trained with stereo",
        "blind, trained with ideal",
    ]


def test_policies_are_named_by_what_sets_them_apart(tmp_path):
    def names(*overrides):
        configs = [to_config(compose_config(["experiment=navigation", *some])) for some in overrides]
        return [arm.name for arm in group([Run(tmp_path / str(i)) for i in range(len(configs))], configs)]

    assert names(["encoder=resnet18"], ["encoder=resnet18", "encoder.trainable=[all]"], ["encoder=cnn"]) == [
        "resnet18 (frozen)",
        "resnet18 (fine-tuned)",
        "CNN from scratch",
    ]
    assert names(["algo.gamma=0.9"], ["algo.gamma=0.8"])[1].endswith("algo.gamma=0.8")
    assert names(["env.level=boxes"], ["env.level=open"])[1].endswith(", open")
    assert names(["encoder=blind", "seed=1"], ["encoder=blind", "seed=2", "evaluation.episodes=3"]) == ["blind"]


def test_one_run_has_wilsons_interval_and_several_that_over_runs(content):
    blind, defm = (
        by_name(content, "blind"),
        by_name(content, "efficientnet_b0 (frozen, random weights), trained with ideal"),
    )
    figure = blind["by_sensor"]["ideal"]["figure"]
    wilson = statistics.rate([True] * 8 + [False] * 32)
    assert (figure["value"], figure["low"], figure["high"]) == pytest.approx((0.2, wilson["low"], wilson["high"]))
    assert (figure["interval"], figure["runs"], figure["episodes"]) == ("Wilson", 1, 40)
    figure = defm["by_sensor"]["stereo"]["figure"]
    assert (figure["value"], figure["interval"], figure["runs"], figure["episodes"]) == (
        pytest.approx(0.6),
        "bootstrap over runs and episodes",
        2,
        80,
    )


def test_the_drop_is_against_the_sensor_of_the_training(content):
    ideal = by_name(content, "efficientnet_b0 (frozen, random weights), trained with ideal")["by_sensor"]
    noisy = by_name(content, "efficientnet_b0 (frozen, random weights), trained with stereo")["by_sensor"]
    assert ideal["ideal"]["drop"] is noisy["stereo"]["drop"] is None
    assert ideal["zedx"]["drop"]["value"] == pytest.approx(0.6)
    assert noisy["zedx"]["drop"]["value"] == pytest.approx(0.3)


def test_failures_are_counted_over_all_runs(content):
    seen = by_name(content, "blind")["by_sensor"]["zedx"]
    assert sum(seen["failures"].values()) == 32
    assert set(seen["failures"]) == {"collision", "timeout"}
    assert seen["means"]["collision"] == pytest.approx(seen["failures"]["collision"] / 40)
    assert seen["means"]["spl"] == pytest.approx(0.18)


def test_unseen_sensors_are_those_the_policy_was_not_trained_with(content):
    noisy = by_name(content, "efficientnet_b0 (frozen, random weights), trained with stereo")["unseen_sensors"]
    assert noisy["sensors"] == ["ideal", "zedx"]
    assert noisy["value"] == pytest.approx((0.8 + 0.5) / 2)


def test_policies_are_compared_over_sensors_and_behind_each(content):
    against_noisy, against_blind, _ = content["comparisons"]
    assert against_noisy["probability"]["value"] == pytest.approx(1 / 3)  # better behind one of three
    assert against_noisy["difference"]["value"] == pytest.approx((0.1 - 0.2 - 0.2) / 3)
    assert against_blind["probability"] == {"value": 1.0, "low": None, "high": None, "runs": 1}
    assert against_blind["by_sensor"]["ideal"]["p_value"] < 1e-6
    assert against_blind["by_sensor"]["zedx"]["p_value"] > 0.1


def test_policies_of_other_tasks_are_not_compared(study, monkeypatch):
    arms, results = study
    monkeypatch.setattr(arms[2].config.env, "level", "open")
    assert len(summary.summarize(results, arms, SENSORS, "success")["comparisons"]) == 1


def test_another_measure_can_be_the_main_one(study):
    arms, results = study
    content = summary.summarize(results, arms, SENSORS, "spl")
    figure = by_name(content, "blind")["by_sensor"]["ideal"]["figure"]
    assert figure["value"] == pytest.approx(0.18)
    assert figure["interval"] == "bootstrap over episodes"
    assert content["comparisons"][0]["by_sensor"]["ideal"]["p_value"] is None  # no rate: no test of rates
    with pytest.raises(ConfigError, match="Did you mean 'collision'"):
        summary.summarize(results, arms, SENSORS, "colision")


def test_a_missing_cell_leaves_the_others_as_they_are(study, content):
    arms, results = study
    whole = content
    results = {key: cells for key, cells in results.items() if key != (arms[0], "zedx")}
    partly = summary.summarize(results, arms, SENSORS, "success")
    assert partly["policies"][0]["by_sensor"]["stereo"] == whole["policies"][0]["by_sensor"]["stereo"]
    assert partly["policies"][1] == whole["policies"][1]
    assert list(partly["comparisons"][0]["by_sensor"]) == ["ideal", "stereo"]


def test_the_table_has_a_row_for_each_policy_and_sensor(content):
    table = summary.rows(content)
    assert len(table) == 9
    row = next(row for row in table if row["policy"].startswith("blind") and row["sensor"] == "stereo")
    assert (row["value"], row["trained_with"], row["failed_collision"], row["weights"]) == (
        0.2,
        "ideal",
        row["failed_collision"],
        None,
    )
    json.dumps(content)  # plain data throughout
