"""`defm-rl adapt`, and evaluating what it made: on real runs of every kind, small ones."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from stable_baselines3 import PPO

from defm_rl import adaptation, cli
from defm_rl.commands import adapt, evaluate, train
from defm_rl.deploy import Policy, compare, export
from defm_rl.encoders.weights import file_sha256, read_adaptation
from defm_rl.envs.core import DRAWN_LAYOUTS
from defm_rl.experiments import environments, frames
from defm_rl.experiments.adapted import check_adaptation, load_adapted
from defm_rl.experiments.config import ConfigError, compose_config
from defm_rl.experiments.evaluation import load
from defm_rl.experiments.interruption import INTERRUPTED
from defm_rl.experiments.runs import Run, to_config

SMALL = [
    "experiment=navigation",
    "env.num_envs=4",
    "env.depth_size=[36,48]",
    "algo.total_steps=64",
    "algo.n_steps=16",
    "algo.batch_size=32",
    "algo.n_epochs=1",
    "evaluation.episodes=2",
    "evaluation.clips=0",
]
FROZEN = ["encoder=regnet_y_400mf", "encoder.weights=random"]
SHORT = ["frames=64", "steps=25", "minutes=9", "held_out=[]"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """Reports and weights without a place of their own go below the working folder."""
    monkeypatch.chdir(tmp_path)


def trained(folder, *overrides):
    assert train.main([*SMALL, *overrides, f"hydra.run.dir={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def frozen(base):
    return trained(base / "frozen", *FROZEN)


@pytest.fixture(scope="module")
def weights(frozen):
    """The run's encoder adapted for a moment."""
    file = frozen.parent / "weights" / "stereo.safetensors"
    assert adapt.main([str(frozen), "sensors=[stereo]", f"output={file}", *SHORT]) == 0
    return file


def test_a_run_gets_weights_with_a_card_and_curves_that_say_what_they_are(frozen, weights):
    declared = read_adaptation(weights)
    assert declared.parent == json.loads((frozen / "checkpoint" / "state.json").read_text())["encoder"]["sha256"]
    assert declared.record["frames"] >= 64
    assert "navigation" in declared.record["note"].lower()
    for suffix in (".md", ".csv", ".png"):
        assert weights.with_suffix(suffix).exists()
    assert not weights.with_suffix(".partial").exists()


def test_frames_are_of_layouts_that_evaluations_never_use_and_of_both_drivers(frozen, monkeypatch):
    config, policy, encoder = load(Run(frozen))
    seeds = []
    real = frames._Recorder.reset

    def reset(self, **kwargs):
        observations, infos = real(self, **kwargs)
        seeds.extend(infos["layout_seed"].tolist())
        return observations, infos

    monkeypatch.setattr(frames._Recorder, "reset", reset)
    found = frames.task_frames(config, 64, policy, encoder)
    assert min(seeds) >= DRAWN_LAYOUTS[0]
    assert len(np.unique(found.scenes)) >= config.env.num_envs
    assert found.depth_mm.shape[1:] == (36, 48)
    with pytest.raises(ConfigError, match="by=hand: frames come by both, policy, random"):
        frames.task_frames(config, 64, policy, encoder, by="hand")


class Watched:
    """A policy whose actions, and those that came of them, are kept."""

    def __init__(self, policy):
        self.policy, self.meant, self.taken = policy, [], []

    def act(self, observations):
        self.meant.append(self.policy.act(observations))
        return self.meant[-1]

    def reset(self, dones=None):
        self.policy.reset(dones)


def test_some_episodes_are_driven_by_the_policy_almost_alone_and_others_far_from_it(frozen, monkeypatch):
    config, policy, encoder = load(Run(frozen))
    watched, real = Watched(policy), frames._Recorder.step

    def step(self, actions):
        watched.taken.append(actions)
        return real(self, actions)

    monkeypatch.setattr(frames._Recorder, "step", step)
    frames.task_frames(config, 16 * 8, watched, encoder, by="policy", num_envs=16)
    moved = np.abs(np.array(watched.taken) - watched.meant).mean((0, 2))  # each episode, of actions of -1 to 1
    assert moved.min() < 0.01
    assert np.median(moved) < 0.2 < moved.max()
    watched.meant, watched.taken = [], []
    frames.task_frames(config, 16, watched, encoder, by="policy", noise=0.0)
    np.testing.assert_array_equal(watched.taken, watched.meant)


def test_of_every_so_many_steps_one_frame_is_kept():
    config = to_config(compose_config([*SMALL, *FROZEN]))
    each = frames.task_frames(config, 4 * 7)
    thinned = frames.task_frames(config, 4 * 3, every=3)
    assert len(thinned) == 4 * 3
    np.testing.assert_array_equal(thinned.depth_mm, each.depth_mm.reshape(7, 4, 36, 48)[::3].reshape(-1, 36, 48))


@pytest.mark.slow
def test_a_policy_is_evaluated_on_both_encoders_and_the_report_holds_one_against_the_other(frozen, weights, tmp_path):
    command = [str(frozen), f"adapted={weights}", "sensors=[ideal,stereo]", "episodes=4", "num_envs=4", "frames=8"]
    assert evaluate.main([*command, "clips=0", "parts=true", f"report={tmp_path}"]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    (pair,) = report["adapted"]
    assert set(pair["by_sensor"]) == {"ideal", "stereo"}
    row = pair["by_sensor"]["stereo"]
    assert row["adapted_to"]
    assert row["won"] - row["lost"] == round(4 * (row["after"]["mean"] - row["before"]["mean"]))
    assert 0 <= row["p_value"] <= 1
    assert row["shift_before"] > 0
    assert row["shift_after"] != row["shift_before"]
    assert pair["by_sensor"]["ideal"]["shift_before"] == pytest.approx(0, abs=1e-4)
    assert [policy["name"].endswith(", adapted") for policy in report["policies"]] == [False, True]
    before, after = report["losses"]
    assert set(before["by_sensor"]) == set(after["by_sensor"]) == {"stereo"}
    assert set(before["by_sensor"]["stereo"]["parts"]) == {"noise", "range"}
    assert report["sensors"] == ["ideal", "stereo"]  # those without their effects are in no other table
    page = (tmp_path / "report.html").read_text()
    assert "McNemar" in page
    assert before["by_sensor"]["stereo"]["advice"] in page


@pytest.mark.slow
def test_what_an_encoder_was_adapted_for_is_all_that_a_policy_accepts(frozen, weights, base, tmp_path, capsys):
    other = trained(base / "other", *FROZEN, "encoder.grid=[1,4]")
    with pytest.raises(ConfigError, match="was adapted for features=P3"):
        load_adapted(Run(other), weights)
    foreign = tmp_path / "foreign.safetensors"
    command = ["encoder=efficientnet_b0", "encoder.weights=random", "env=navigation", "env.depth_size=[36,48]"]
    assert adapt.main([*command, "env.num_envs=4", "sensors=[stereo]", f"output={foreign}", *SHORT]) == 0
    assert evaluate.main([str(frozen), f"adapted={foreign}", "episodes=2"]) == 2
    assert "was adapted from weights of sha256" in capsys.readouterr().err
    plain = tmp_path / "plain.pth"
    torch.save({"model": {}}, plain)
    with pytest.raises(ConfigError, match="names its parent"):
        load_adapted(Run(frozen), plain)
    # Weights of the adaptation without being asked for by `adapted=` are other weights, as ever.
    copied = shutil.copytree(frozen, tmp_path / "copied")
    state = json.loads((copied / "checkpoint" / "state.json").read_text())
    state["encoder"]["weights"] = str(weights)
    (copied / "checkpoint" / "state.json").write_text(json.dumps(state))
    with pytest.raises(ConfigError, match="was trained with weights of sha256"):
        load(Run(copied))


RSL_PPO = ["algo=rsl_ppo", "algo.num_steps_per_env=16", "algo.num_learning_epochs=1", "algo.num_mini_batches=2"]
HELD = {
    "cnn": ["encoder=cnn"],
    "fine_tuned": [*FROZEN, "encoder.trainable=[all]"],
    "rsl_rl": [*FROZEN, *RSL_PPO, "encoder.trainable=[stem]"],
    "rsl_rl_cnn": ["encoder=cnn", *RSL_PPO],
}


@pytest.mark.slow
@pytest.mark.sweep(4)
@pytest.mark.parametrize("kind", HELD)
def test_a_network_inside_the_policy_is_adapted_too(kind, tmp_path):
    overrides = [x for x in SMALL if "rsl" not in kind or not x.startswith(("algo.n_steps", "algo.batch", "algo.n_ep"))]
    folder = tmp_path / "run"
    assert train.main([*overrides, *HELD[kind], f"hydra.run.dir={folder}"]) == 0
    steps = ["frames=1000", "steps=100", "learning_rate=3e-4"] if "cnn" in kind else []
    assert adapt.main([str(folder), "sensors=[stereo]", *SHORT, *steps]) == 0
    file = folder / "adapted" / "stereo.safetensors"
    _, own, _ = load(Run(folder))
    _, other, _ = load_adapted(Run(folder), file)
    depth = torch.rand(4, 36, 48) + 1
    with torch.no_grad():
        assert not torch.allclose(own.network(depth), other.network(depth))
    assert evaluate.main([str(folder), f"adapted={file}", "episodes=2", "num_envs=2", "frames=8", "clips=0"]) == 0
    with torch.no_grad():
        next(own.network.parameters()).mul_(1.1)  # as another seed would have
    with pytest.raises(ConfigError, match="was adapted from weights of sha256"):
        check_adaptation(Run(folder), file, own.network)


@pytest.mark.slow
@pytest.mark.parametrize(("sensor", "warned"), [("stereo", True), ("zedx_without_noise", False)])
def test_a_policy_that_was_trained_with_noise_is_warned_of(sensor, warned, frozen, tmp_path, caplog):
    folder = tmp_path / "run"
    shutil.copytree(frozen, folder)
    config = (folder / "config.yaml").read_text()
    assert "sensor: ideal" in config
    (folder / "config.yaml").write_text(config.replace("sensor: ideal", f"sensor: {sensor}"))
    assert adapt.main([str(folder), "sensors=[stereo]", "frames=32", "steps=1"]) == 0
    assert ("expect little" in caplog.text) is warned


@pytest.mark.slow
def test_an_rsl_rl_policy_on_frozen_features_gives_its_statistics(tmp_path):
    overrides = [x for x in SMALL if not x.startswith(("algo.n_steps", "algo.batch", "algo.n_ep"))]
    assert train.main([*overrides, *FROZEN, *RSL_PPO, f"hydra.run.dir={tmp_path / 'run'}"]) == 0
    _, policy, encoder = load(Run(tmp_path / "run"))
    assert policy.standardization(["depth"]).mean.shape == (1, encoder.feature_dim)
    assert adapt.main([str(tmp_path / "run"), "sensors=[stereo]", *SHORT]) == 0


@pytest.mark.slow
def test_an_interrupted_command_leaves_no_file_and_goes_on(frozen, tmp_path, monkeypatch, caplog):
    file = tmp_path / "here" / "new.safetensors"
    command = [str(frozen), "sensors=[stereo]", f"output={file}", *SHORT]
    learn = adaptation._Work._learn

    def interrupted(work):
        if work.step == 2:
            raise KeyboardInterrupt
        learn(work)

    with monkeypatch.context() as patch:
        patch.setattr(adaptation._Work, "_learn", interrupted)
        assert adapt.main(command) == INTERRUPTED
    assert "the same command goes on" in caplog.text
    assert [path.name for path in file.parent.iterdir()] == ["new.partial"]
    assert adapt.main(command) == 0
    assert sorted(path.suffix for path in file.parent.iterdir()) == [".csv", ".md", ".png", ".safetensors"]
    assert read_adaptation(file).record["steps"] == 25
    assert adapt.main(command) == 2  # what took minutes is not overwritten


@pytest.mark.slow
def test_recorded_pairs_and_clean_frames_come_from_folders(frozen, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c", "d"):
        depth = rng.integers(500, 4000, (20, 72, 96)).astype(np.uint16)
        for part, seen in (("clean", depth), ("seen", depth * (rng.random(depth.shape) > 0.2))):
            (tmp_path / "pairs" / part).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "pairs" / part / f"{name}.npy", seen.astype(np.uint16))
    sources = [f"pairs={tmp_path / 'pairs'}", f"clean={tmp_path / 'pairs' / 'clean'}"]
    file = tmp_path / "pairs.safetensors"
    assert adapt.main([str(frozen), *sources, f"output={file}", *SHORT]) == 0
    assert read_adaptation(file).record["pairs"] == 80
    (tmp_path / "pairs" / "seen" / "d.npy").unlink()
    assert adapt.main([str(frozen), *sources, f"output={tmp_path / 'x.safetensors'}", *SHORT]) == 2
    assert "d.npy is in only one of clean and seen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sensors=[stereo]"], "Name a run"),
        (["RUN"], "Name the cameras"),
        (["RUN", "sensors=[sterio]"], "Did you mean 'stereo'?"),
        (["RUN", "sensors=[stereo]", "minuts=3"], "Did you mean 'minutes'?"),
        (["RUN", "sensors=[stereo]", "output=x.pth"], ".safetensors"),
        (["RUN", "sensors=[stereo]", "frames=3"], "frames must be at least"),
        (["RUN", "sensors=[stereo]", "parts=[s9]"], "trainable must be"),
        (["RUN", "sensors=[stereo]", "by=hand"], "by=hand"),
        (["RUN", "sensors=[stereo]", "env.level=boxes"], "there is no key 'env.level'"),
        (["nowhere", "sensors=[stereo]"], "holds no run"),
        (["encoder=cnn", "env=navigation", "sensors=[stereo]"], "no weights to adapt"),
        (["RUN", "pairs=nowhere"], "must hold the folders clean and seen"),
    ],
)
def test_bad_input_is_answered_with_what_to_write_instead(frozen, arguments, says, capsys):
    arguments = [str(frozen) if argument == "RUN" else argument for argument in arguments]
    assert adapt.main(["frames=64", "steps=1", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_blind_policies_have_nothing_to_adapt(base, capsys):
    blind = trained(base / "blind", "encoder=blind")
    assert adapt.main([str(blind), "sensors=[stereo]"]) == 2
    assert "sees no depth: there is nothing to adapt" in capsys.readouterr().err


def test_frames_without_a_policy_are_those_of_random_actions():
    config = to_config(compose_config([*SMALL, *FROZEN]))
    found = frames.task_frames(config, 32)
    assert len(found) >= 32
    assert environments.camera_keys(config.encoder) == ("depth",)


def test_pictures_of_millimetres_in_8_bits_are_refused(frozen, tmp_path, capsys):
    for index in range(2):
        Image.fromarray(np.full((72, 96), 200, np.uint8)).save(tmp_path / f"{index}.png")
    assert adapt.main([str(frozen), "sensors=[stereo]", f"clean={tmp_path}", "steps=1"]) == 2
    assert "recorded_unit" in capsys.readouterr().err


@pytest.mark.slow
def test_frames_of_a_real_camera_get_a_fitted_sensor_and_are_looked_at_before_and_after(frozen, tmp_path, caplog):
    rng = np.random.default_rng(0)
    (tmp_path / "real").mkdir()
    for index in range(6):
        depth = np.full((72, 96), 1500 + 200 * index) + rng.normal(0, 20, (72, 96))
        depth[20:50, 10 : 30 + index] = 0
        Image.fromarray(depth.astype(np.uint16)).save(tmp_path / "real" / f"{index}.png")
    file = tmp_path / "real.safetensors"
    assert adapt.main([str(frozen), f"recorded={tmp_path / 'real'}", f"output={file}", *SHORT]) == 0
    record = read_adaptation(file).record
    assert list(record["sensors"]) == ["recorded"]
    figures = record["recorded"]["figures"]
    before, after = (abs(figures[x]["hole_share"] - figures["recorded"]["hole_share"]) for x in ("before", "after"))
    assert after < before
    assert set(record["recorded"]["features_before"]) == {"mmd", "nearest_cosine"}
    assert "Nearest simulated sensor" in caplog.text


def features_apart(file, run, **settings):
    """The mean, after the first stage: of single flat frames, which normalization amplifies, it may be more."""
    return compare(file, run, **settings)[0].mean


@pytest.mark.slow
def test_what_was_adapted_is_exported(frozen, weights):
    assert cli.main(["export", str(frozen), f"adapted={weights}"]) == 0
    file = weights.with_suffix(".onnx")
    made_by = Policy(file).contract.made_by
    assert made_by["encoder"]["sha256"] == made_by["adapted"]["sha256"] == file_sha256(weights)
    assert made_by["adapted"]["parent"] == read_adaptation(weights).parent
    assert made_by["adapted"]["sensors"] == ["stereo"]
    assert features_apart(file, frozen, adapted=weights) < 1e-4
    assert features_apart(file, frozen) > 1e-2
    assert cli.main(["compare", str(file), str(frozen)]) == 1


@pytest.mark.slow
def test_a_network_that_the_policy_holds_is_exported_as_adapted(base):
    run = trained(base / "trained", "encoder=cnn")
    weights = base / "weights" / "cnn.safetensors"
    learning = [*SHORT, "frames=1000", "steps=100", "learning_rate=3e-4"]
    assert adapt.main([str(run), "sensors=[stereo]", f"output={weights}", *learning]) == 0
    file = export(run, base / "cnn.onnx", adapted=weights).path
    assert features_apart(file, run, adapted=weights) < 1e-5
    assert features_apart(file, run) > 1e-4


def test_adapted_weights_are_exported_with_their_run_alone(frozen, tmp_path):
    other = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(1)}, other)
    with pytest.raises(ConfigError, match="is no adaptation"):
        export(frozen, tmp_path / "policy.onnx", adapted=other)
    with pytest.raises(ValueError, match="goes with a run's folder"):
        export(PPO("MlpPolicy", "Pendulum-v1"), tmp_path / "policy.onnx", adapted=other)
    with pytest.raises(ValueError, match="goes with a run"):
        compare(tmp_path / "a.onnx", tmp_path / "b.onnx", adapted=other)
    assert not list(tmp_path.glob("*.onnx"))
