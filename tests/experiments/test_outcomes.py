"""Where runs stand, in words and as JSON, from a thousand of them at once."""

import json
import mmap
import shutil

import pytest

from defm_rl.commands import runs
from defm_rl.experiments.outcomes import duration
from defm_rl.experiments.peak_memory import peak_memory, watch_peak_memory

MB = 10**6


@pytest.fixture
def listed(capsys):
    def of(*arguments):
        assert runs.main(list(arguments)) == 0
        return capsys.readouterr().out

    return of


def test_each_run_is_listed_with_its_state_success_and_cost(run, listed):
    sweep = run.folder.parent / "runs" / "sweep"
    for name in ("done", "killed", "failed"):
        shutil.copytree(run.folder, sweep / name)
    status = json.loads((run.folder / "status.json").read_text())
    for name, change in {
        "killed": {"state": "running", "pid": 2**22 + 1, "ended": None},
        "failed": {"state": "failed", "reason": "ValueError: no such wall"},
    }.items():
        (sweep / name / "status.json").write_text(json.dumps({**status, **change}))
    success = json.loads((run.folder / "metrics.json").read_text())["evaluation"]["success_rate"]
    text = listed()
    done, failed, _, killed, *_ = text.splitlines()[1:]
    for word in ("runs/sweep/done", "finished", f"{success['mean']:.1%}", f"to {success['high']:.1%}", "256"):
        assert word in done
    assert "256 of 256" in failed
    assert "%" not in failed  # of an evaluation that is not of what it is now
    assert "interrupted" in killed
    assert "ValueError: no such wall" in text
    assert "ended without a word" in text
    assert "3 runs: 1 finished, 1 interrupted, 1 failed" in text
    by_run = {entry["run"]: entry for entry in json.loads(listed("runs", "--json"))}
    assert by_run["runs/sweep/done"]["success_rate"] == success
    assert by_run["runs/sweep/done"]["wall_s"] == status["wall_s"]
    assert by_run["runs/sweep/done"]["peak_memory_mb"] > 50
    assert by_run["runs/sweep/failed"]["reason"] == "ValueError: no such wall"


def test_a_thousand_runs_are_listed(run, listed):
    for number in range(1000):
        folder = run.folder.parent / "runs" / str(number)
        folder.mkdir(parents=True)
        for name in ("config.yaml", "status.json", "metrics.json"):
            (folder / name).hardlink_to(run.folder / name)
    assert "1000 runs: 1000 finished" in listed("runs")


def test_no_folder_and_no_runs_are_said(tmp_path, listed, capsys):
    assert runs.main([str(tmp_path / "nowhere")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert "no runs" in listed(str(tmp_path))
    assert listed(str(tmp_path), "--json") == "[]\n"


def test_times_are_written_for_people():
    assert [duration(seconds) for seconds in (42.4, 210, 43_560)] == ["42 s", "3.5 min", "12.1 h"]


def test_a_peak_of_memory_is_that_of_its_own_run():
    watch_peak_memory()
    before = peak_memory()["peak_memory_mb"]
    much = mmap.mmap(-1, 100 * MB)  # malloc may keep what is freed
    for _ in range(100):
        much.write(bytes(MB))
    with_it = peak_memory()["peak_memory_mb"]
    assert with_it - before == pytest.approx(100, abs=10)
    much.close()
    watch_peak_memory()
    assert peak_memory()["peak_memory_mb"] < with_it - 80
