"""From a run to the robot: its contract knows the task, and the file alone drives as the run does."""

import logging
import shutil

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from defm_rl import cli
from defm_rl.commands import train
from defm_rl.deploy import Policy, compare, comparison, export
from defm_rl.deploy.driving import drive, success
from defm_rl.experiments.evaluation import Options, summarize
from defm_rl.experiments.runs import Run

SMALL = ["env.num_envs=4", "env.depth_size=[32,48]", "evaluation.episodes=4", "evaluation.clips=0"]
NAVIGATION = ["experiment=navigation", "encoder=resnet18", "encoder.weights=random", "encoder.features=[P3]", *SMALL]
NAVIGATION += ["encoder.bifpn=false", "encoder.grid=[1,2]", "env.sensor=stereo", "algo.total_steps=256"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("navigation") / "run"
    assert train.main([*NAVIGATION, "algo.n_steps=16", f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def file(run):
    assert cli.main(["export", str(run)]) == 0
    return run / "policy.onnx"


def test_the_contract_knows_the_task(file):
    contract = Policy(file).contract
    assert contract.step_s == 0.2
    assert contract.depth[0].camera.fov_deg[0] == pytest.approx(100.0)
    assert contract.vectors[0].entries[:2] == ("distance to the goal / 5 m", "cosine of the goal's bearing")
    assert (contract.action.units, contract.action.scale[0]) == (("m/s", "rad/s"), 0.75)
    assert contract.sensor["name"] == "stereo"
    assert contract.sensor["max_depth_m"] < 30
    assert contract.made_by["encoder"]["sha256"]
    assert {"run", "git_commit", "versions", "checkpoint"} <= set(contract.made_by)
    assert contract.checked["frames"] == 128


def test_a_run_and_its_file_are_the_same_at_every_stage(run, file, capsys, caplog):
    with caplog.at_level(logging.INFO):
        assert cli.main(["compare", str(run), str(file)]) == 0
    assert "They do the same." in caplog.text
    assert all(stage in caplog.text for stage in ("features.depth", "standardized.depth", "output", "action"))


@pytest.mark.slow
def test_two_that_part_are_told_where(run, file, tmp_path):
    other = Run(tmp_path / "run")
    shutil.copytree(run, other.folder)
    before = Run(run).checkpoint

    def save(folder):
        model = PPO.load(before / "model.zip")
        with torch.no_grad():
            model.policy.action_net.bias += 0.5
        model.save(folder / "model.zip")
        shutil.copy(before / "statistics.pkl", folder)

    other.save_checkpoint(save, Run(run).state())
    differences = compare(other.folder, file)
    assert next(difference.stage for difference in differences if difference.parts) == "output"


def test_the_file_drives_the_run_s_task_alone(run, file):
    figures = success(run, file, 4)
    assert figures["run"]["success_rate"]["episodes"] == figures["file"]["success_rate"]["episodes"] == 4
    assert figures["file"]["steps"]["mean"] == pytest.approx(figures["run"]["steps"]["mean"], rel=0.3)


def test_wrong_command_lines_say_what_is_right(tmp_path, capsys, run):
    for arguments, says in [
        (["export"], "expected RUN, got nothing"),
        (["export", str(run), "precison=int8"], "did you mean 'precision'"),
        (["export", str(run), "precision=int4"], "precision must be one of float32, float16, int8"),
        (["export", str(run), "episodes=many"], "expected something like episodes=0"),
        (["export", str(tmp_path)], "holds no run"),
        (["compare", str(run), str(tmp_path / "x.onnx")], "no run and no file"),
        (["export-encoder", "defm_resnet19"], "Did you mean"),
        (["bench-latency", "resnet19"], "neither an exported file nor an encoder"),
    ]:
        assert cli.main(arguments) == 2
        assert says in capsys.readouterr().err
    assert cli.main(["export", "--help"]) == 0
    assert "precision=float32" in capsys.readouterr().out


@pytest.mark.slow
def test_latency_of_a_file_is_measured_in_processes_of_their_own(file, caplog):
    with caplog.at_level(logging.INFO):
        assert cli.main(["bench-latency", str(file), "seconds=0.2", "threads=1"]) == 0
    messages = [record.getMessage() for record in caplog.records]
    for name in ("ONNX Runtime", "ONNX in int8"):
        (row,) = [message for message in messages if message.startswith(f"{name} ")]
        threads, p50, p90, p99, start, memory = map(float, row.removeprefix(name).split())
        assert (threads, 0 < p50 <= p90 <= p99, start > 0, memory > 20) == (1, True, True, True)


@pytest.mark.slow
def test_the_quick_start_drives_two_hundred_layouts_as_well_from_its_file(tmp_path):
    folder = tmp_path / "run"
    settings = ["experiment=quickstart", "encoder.weights=random", "evaluation.episodes=4", "evaluation.clips=0"]
    assert train.main([*settings, f"hydra.run.dir={folder}"]) == 0
    exported = export(folder, tmp_path / "policy.onnx")
    figures = success(folder, exported.path, 200)
    before, after = (figures[name]["success_rate"]["mean"] for name in ("run", "file"))
    assert before > 0.8
    assert after == pytest.approx(before, abs=0.03)
    quantized = export(folder, tmp_path / "int8.onnx", precision="int8")
    driven = summarize(drive(Run(folder), quantized.path, Options(episodes=200)))
    assert driven["success_rate"]["mean"] > before - 0.05


@pytest.mark.slow
def test_a_locomotion_student_with_a_memory_walks_as_well_from_its_file(tmp_path):
    walk = [*SMALL, "algo.total_steps=4096", "env.max_episode_steps=50"]
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    assert train.main(["experiment=locomotion_teacher", *walk, f"hydra.run.dir={teacher}"]) == 0
    kind = ["encoder=regnet_y_400mf", "encoder.weights=random", f"teacher={teacher}", "algo.rnn_type=gru"]
    assert train.main(["experiment=locomotion_student", *walk, *kind, f"hydra.run.dir={student}"]) == 0
    exported = export(student, tmp_path / "policy.onnx")
    assert [part.name for part in exported.contract.memory] == ["h"]
    figures = success(student, exported.path, 200)
    distances = [figures[name]["share_traversed"]["mean"] for name in ("run", "file")]
    assert np.diff(distances) == pytest.approx(0, abs=0.02)


@pytest.mark.slow
def test_a_run_and_its_file_are_the_same_on_recorded_depth(run, file, tmp_path, caplog, capsys):
    depth = np.random.default_rng(0).uniform(800, 4000, (5, 60, 80)).astype(np.uint16)
    np.save(tmp_path / "recorded.npy", depth)
    arguments = ["compare", str(run), str(file), f"recorded={tmp_path / 'recorded.npy'}"]
    with caplog.at_level(logging.INFO):
        assert cli.main(arguments) == 0
    assert "They do the same." in caplog.text
    frames = comparison.recorded_frames(file, tmp_path / "recorded.npy")
    assert all(step["depth"].min() >= 0.8 and step["depth"].max() <= 4.0 for step in frames)
    assert cli.main([*arguments, "recorded_unit=5000"]) == 2
    assert "1/5000" in capsys.readouterr().err
