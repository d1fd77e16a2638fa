"""`defm-rl evaluate` with sensors, and `defm-rl gap`: on real policies and scenes, interrupted and broken ones too."""

import csv
import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from defm_rl.commands import evaluate, gap, train
from defm_rl.experiments.evaluation import Cell, Options
from defm_rl.experiments.runs import Run

SMALL = [
    "experiment=navigation",
    "env.num_envs=4",
    "env.depth_size=[24,48]",
    "algo.total_steps=64",
    "algo.n_steps=16",
    "algo.batch_size=32",
    "algo.n_epochs=1",
    "evaluation.episodes=2",
    "evaluation.clips=0",
]
SEEING = ["encoder=efficientnet_b0", "encoder.weights=random"]
EVALUATION = ["episodes=4", "num_envs=4", "frames=8"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folders of two runs as training leaves them: one that sees and a blind one."""
    base = tmp_path_factory.mktemp("trained")
    for name, encoder in (("seeing", SEEING), ("blind", ["encoder=blind"])):
        assert train.main([*SMALL, *encoder, f"hydra.run.dir={base / name}"]) == 0
    return base


@pytest.fixture
def here(trained, tmp_path, monkeypatch):
    """The runs, linked into a folder of the test's own so that evaluations of one test are not found by another."""
    for folder in trained.iterdir():
        copy = tmp_path / folder.name
        copy.mkdir()
        for part in folder.iterdir():
            if part.name != "evaluations":
                (copy / part.name).symlink_to(part)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def count(monkeypatch):
    """Which sensors policies were evaluated behind."""
    seen = []
    real = evaluate.evaluate

    def counted(config, policy, encoder, options, sensor):
        seen.append(sensor)
        return real(config, policy, encoder, options, sensor)

    monkeypatch.setattr(evaluate, "evaluate", counted)
    return seen


def layouts(folder, sensor):
    with (folder / "evaluations" / "2000000-4" / sensor / "episodes.csv").open() as file:
        return [int(row["layout"]) for row in csv.DictReader(file)]


def test_every_policy_meets_every_sensor_on_the_same_layouts_and_a_report_says_how_it_went(here, count, caplog):
    command = ["seeing", "blind", "sensors=[ideal,stereo]", "report=out", *EVALUATION]
    assert evaluate.main(command) == 0
    assert count == ["ideal", "stereo"] * 2
    for run in ("seeing", "blind"):
        for sensor in ("ideal", "stereo"):
            assert layouts(here / run, sensor) == [2_000_000, 2_000_001, 2_000_002, 2_000_003]
    made_by = json.loads((here / "seeing/evaluations/2000000-4/stereo/metrics.json").read_text())["made_by"]
    assert (made_by["sensor"], made_by["trained_with"], made_by["encoder"]["weights"]) == ("stereo", "ideal", "random")

    report = json.loads((here / "out" / "report.json").read_text())
    assert [policy["name"] for policy in report["policies"]] == ["efficientnet_b0 (frozen, random weights)", "blind"]
    seeing, blind = (policy["by_sensor"] for policy in report["policies"])
    assert blind["ideal"]["means"] == blind["stereo"]["means"]  # it sees nothing, and the layouts are the same
    assert seeing["ideal"]["means"]["reward"] != seeing["stereo"]["means"]["reward"]
    assert [row["camera"] for row in report["encoders"][0]["cameras"]] == ["ideal", "stereo"]
    page = (here / "out" / "report.html").read_text()
    assert "Random weights" in page
    assert page.count("data:image/gif") >= 2
    assert "data:image/png" in page
    with (here / "out" / "report.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 4

    # Once more: everything is there, nothing is evaluated again, and the report says the same.
    count.clear()
    caplog.clear()
    assert evaluate.main([*command, "clips=0"]) == 0
    assert count == []
    assert caplog.text.count("(from before)") == 4
    again = json.loads((here / "out" / "report.json").read_text())
    assert again["policies"] == report["policies"]
    assert again["encoders"] == report["encoders"]
    # Unless asked to, with one sensor more, or with a checkpoint that is another one by now.
    assert evaluate.main(["blind", "sensors=ideal", "fresh=true", "report=out", "clips=0", *EVALUATION]) == 0
    assert evaluate.main(["blind", "sensors=[ideal,dextrah]", "report=out", "clips=0", *EVALUATION]) == 0
    checkpoint = here / "blind" / "checkpoint"
    state = json.loads((checkpoint / "state.json").read_text())
    checkpoint.rename(here / "former")
    checkpoint.mkdir()
    for part in (here / "former").resolve().iterdir():
        (checkpoint / part.name).write_bytes(part.read_bytes())
    (checkpoint / "state.json").write_text(json.dumps({**state, "steps": 65}))
    assert evaluate.main(["blind", "episodes=4", "num_envs=4"]) == 0
    assert count == ["ideal", "dextrah", "ideal"]


def test_a_broken_run_is_named_and_the_others_are_evaluated(here, capsys, caplog):
    (here / "empty").mkdir()
    unfinished, damaged = here / "unfinished", here / "damaged"
    (damaged / "checkpoint").mkdir(parents=True)
    unfinished.mkdir()
    for broken in (unfinished, damaged):
        for name in ("config.yaml", "overrides.txt"):
            (broken / name).write_text((here / "blind" / name).read_text())
    for part in (here / "blind" / "checkpoint").iterdir():
        kept = part.read_bytes()
        whole = part.suffix == ".json"
        (damaged / "checkpoint" / part.name).write_bytes(kept if whole else b"PK, once".ljust(len(kept)))
    command = [
        "empty",
        "unfinished",
        "damaged",
        "blind",
        "sensors=[ideal,stereo]",
        "report=out",
        "clips=0",
        *EVALUATION,
    ]
    assert evaluate.main(command) == 2
    assert "Left out, without a checkpoint: empty, unfinished" in caplog.text
    assert "The checkpoint of damaged cannot be read" in capsys.readouterr().err
    assert layouts(here / "blind", "stereo")
    report = json.loads((here / "out" / "report.json").read_text())
    assert {seen for policy in report["policies"] for seen in policy["by_sensor"]} == {"ideal", "stereo"}
    assert len(report["problems"]) == 1
    assert "The checkpoint of damaged cannot be read" in (here / "out" / "report.html").read_text()


@pytest.mark.slow
def test_an_interrupted_evaluation_goes_on_where_it_stopped(here, count):
    arguments = [
        "blind",
        "sensors=[ideal,redwood,stereo,zedx,dextrah]",
        "report=out",
        "clips=0",
        "episodes=150",
        "num_envs=4",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "defm_rl.cli", "evaluate", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        # Whoever runs the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    folder = here / "blind" / "evaluations" / "2000000-150"
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline and process.poll() is None:
            if (folder / "redwood" / "metrics.json").exists():
                break
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    options = Options(episodes=150, num_envs=4)
    names = ["ideal", "redwood", "stereo", "zedx", "dextrah"]
    kept = [name for name in names if Cell(Run(here / "blind"), name, options).finished]
    assert kept == names[: len(kept)]
    assert 2 <= len(kept) < 5
    assert f"{len(kept)} of 5 evaluations are finished and kept" in output
    assert not (here / "out").exists()
    before = {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in kept}

    assert evaluate.main(arguments) == 0
    assert count == names[len(kept) :]
    assert before == {name: (folder / name / "metrics.json").stat().st_mtime_ns for name in kept}
    by_sensor = json.loads((here / "out" / "report.json").read_text())["policies"][0]["by_sensor"]
    assert list(by_sensor) == names
    assert {seen["figure"]["episodes"] for seen in by_sensor.values()} == {150}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blind", "sensors=[ideal,sterio]"], "Did you mean 'stereo'"),
        (["blind", "sensors=[]"], "sensors=all"),
        (["blind", "sensor=all"], "Did you mean 'sensors'"),
        (["blind", "sensors=all", "frames=3"], "frames must be at least 8"),
        (["blind", "sensors=all", "clips=-1"], "clips must be at least 0"),
        (["blind", "sensors=all", "recorded=nowhere"], "no such folder"),
        (["sensors=all"], "Name a run"),
    ],
)
def test_a_wrong_setting_is_refused_before_anything_is_evaluated(here, count, capsys, arguments, message):
    assert evaluate.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert count == []


@pytest.mark.slow
def test_recorded_depth_that_cannot_be_read_leaves_the_rest_of_the_report(here, capsys):
    (here / "recorded").mkdir()
    (here / "recorded" / "frame.png").write_bytes(b"not a picture")
    command = ["seeing", "sensors=ideal", "recorded=recorded", "report=out", "clips=0", *EVALUATION]
    assert evaluate.main(command) == 2
    assert "frame.png: cannot be read" in capsys.readouterr().err
    report = json.loads((here / "out" / "report.json").read_text())
    assert report["policies"][0]["by_sensor"]["ideal"]["figure"]["episodes"] == 4
    assert [row["camera"] for row in report["encoders"][0]["cameras"]] == ["ideal"]


def test_a_measure_that_the_task_lacks_loses_no_evaluation(here, count, capsys):
    command = ["blind", "sensors=[ideal]", "report=out", "clips=0", *EVALUATION]
    assert evaluate.main([*command, "measure=slp"]) == 2
    assert "Did you mean 'spl'" in capsys.readouterr().err
    assert evaluate.main([*command, "measure=spl"]) == 0
    assert count == ["ideal"]
    assert json.loads((here / "out" / "report.json").read_text())["measure"] == "spl"


GAP = [*SEEING, "env.level=boxes", "env.depth_size=[24,48]", "frames=16"]


def test_the_feature_gap_needs_no_policy(tmp_path, caplog):
    assert gap.main([*GAP, "sensors=[ideal,stereo_ladder]", f"report={tmp_path}"]) == 0
    (table,) = (message for message in caplog.messages if "camera" in message)
    assert "RANDOM weights" in table
    ideal, ladder = (line.split() for line in table.splitlines() if line.split()[0] in ("ideal", "stereo_ladder"))
    assert ideal[2:5] == ["1.0000", "1.0000", "0.0000"]
    assert float(ladder[2]) < 1
    assert float(ladder[4]) > 0
    assert "no policy is involved" in (tmp_path / "report.html").read_text()


def test_recorded_depth_takes_a_sensors_place_and_a_corrupt_file_loses_nothing(tmp_path, capsys, caplog):
    folder = tmp_path / "recorded"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(4):
        frame = rng.integers(800, 4000, (6, 8)).repeat(20, 0).repeat(20, 1).astype(np.uint16)
        Image.fromarray(frame).save(folder / f"{index}.png")
    (folder / "4.png").write_bytes(b"not a picture")
    assert gap.main([*GAP, "sensors=[ideal,stereo]", f"recorded={folder}", f"report={tmp_path / 'out'}"]) == 2
    assert f"{folder / '4.png'}: cannot be read" in capsys.readouterr().err
    assert "Nearest to the recorded frames: " in caplog.text
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["recorded"] == {"path": str(folder), "files": 4, "frames": 4}
    assert len(report["problems"]) == 1
    assert report["encoders"][0]["cameras"][-1]["camera"] == "recorded"


def test_help_tells_the_experiments_keys_and_a_comparison_without_report_that_there_are_pictures(capsys, caplog):
    assert gap.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(key in said for key in ("encoder=", "resnet18", "encoder.weights=", "env.level"))
    assert gap.main([*GAP, "sensors=[ideal]"]) == 0
    assert "report=FOLDER adds pictures" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encoder=blind"], "no features to compare"),
        (["encoder=resnet19"], "Did you mean 'resnet18'"),
        (["frame=16"], "Did you mean 'frames'"),
        ([*GAP, "sensors=kinect"], "kinect_nguyen"),
        ([*GAP, "env.level=boxs"], "boxes"),
        ([*GAP, "recorded=nowhere"], "no such folder"),
    ],
)
def test_a_wrong_comparison_says_what_to_write(capsys, arguments, message):
    assert gap.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
