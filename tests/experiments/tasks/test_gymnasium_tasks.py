"""Tasks that others wrote, by their gymnasium id: trained, evaluated and reported as ours are."""

import csv
import dataclasses
import json
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from their_tasks import WhichSide

from defm_rl.commands import check_env, evaluate, export, gap, memory, train
from defm_rl.deploy import Policy
from defm_rl.depth import DepthFormat, ZBuffer
from defm_rl.experiments.config import ConfigError, GymnasiumEnvConfig, compose_config
from defm_rl.experiments.episodes import run_episodes, settled
from defm_rl.experiments.evaluation import describe, summarize
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.tasks import Ability, make_task
from defm_rl.experiments.tasks.adapted import Adapted, Observed

THEIRS = ["env=gymnasium", "env.id=their_tasks:their/WhichSide-v0", "env.num_envs=4"]
ENCODER = ["encoder=regnet_y_400mf", "encoder.weights=random", "encoder.grid=[1,4]"]
SHORT = [
    *("algo.n_steps=8", "algo.batch_size=16", "algo.n_epochs=1", "algo.total_steps=64"),
    *("evaluation.episodes=8", "evaluation.clips=0", "hydra.run.dir=run"),
]
Z_BUFFER = ["env.render_depth=true", "env.kwargs.image=false", "env.near=0.1", "env.far=20"]


def task_of(*overrides):
    return make_task(to_config(compose_config([*THEIRS, *overrides])).env)


class ToTheLeft:
    """Acts always the same way."""

    def act(self, observations):
        return np.full((len(observations["joints"]), 1), -1.0, np.float32)

    def reset(self, dones=None):
        pass


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ([], "front"),
        (["env.kwargs.nested=true"], "camera/front"),
        (["env.kwargs={nested: true}", "env.vectorize=async"], "camera/front"),
        (["env.kwargs.depth_scale=1000", "env.depth_unit=mm"], "front"),
        (["env.kwargs.depth_scale=5000", "env.depth_unit=0.0002"], "front"),
        (Z_BUFFER, "depth"),
        (["env.id=their_tasks:their/Batched-v0"], "front"),
    ],
    ids=["flat", "nested", "processes", "millimetres", "counts", "z-buffer", "vectorized"],
)
def test_depth_comes_in_metres_and_vectors_beside_it(overrides, key):
    task = task_of(*overrides)
    assert {k: (c.height, c.width) for k, c in task.cameras.items()} == {key: (32, 40)}
    assert task.vectors == ("joints",)
    assert task.step_s == (None if "Batched" in str(overrides) else 0.1)
    env = task.make((key, "joints"), num_envs=3, layouts=range(10, 14))
    observations, _ = env.reset()
    assert observations[key].shape == (3, 1, 32, 40)
    assert observations[key].dtype == np.float32
    np.testing.assert_allclose(np.unique(observations[key].round(4)), [1.0, 5.0])
    assert env.observation_space.contains(observations)
    for _ in range(3):
        observations, _, terminated, _, infos = env.step(np.ones((3, 1), np.float32))
    assert terminated.all()
    assert infos["final_obs"][0][key].shape == (1, 32, 40)
    assert infos["final_obs"][0]["joints"] == pytest.approx([0.0, 0.3])
    assert list(infos["final_info"]["layout_seed"]) == [10, 11, 12]
    env.close()


def test_beyond_max_depth_there_are_holes():
    env = task_of("env.max_depth_m=4").make(("front",), num_envs=1)
    assert set(np.unique(env.reset()[0]["front"])) == {0.0, 1.0}
    env.close()


@pytest.mark.parametrize("vectorize", ["sync", "async"])
def test_an_episode_follows_from_its_number_whatever_the_number_of_environments(vectorize):
    outcomes = {}
    for num_envs in (1, 3):
        env = task_of(f"env.vectorize={vectorize}").make(("joints",), num_envs=num_envs, layouts=range(20, 30))
        episodes = run_episodes(ToTheLeft(), env, range(20, 30))
        outcomes[num_envs] = {e.layout: (e.success, e.failure, e.reward) for e in episodes}
        env.close()
    assert sorted(outcomes[1]) == list(range(20, 30))
    assert outcomes[1] == outcomes[3]
    assert {failure for _, failure, _ in outcomes[1].values()} == {"", "failure"}
    env = WhichSide()
    for number, (success, _, _) in outcomes[1].items():
        env.reset(seed=number)
        assert success == (env.side == 0)


class TellsOfSuccessAlone(WhichSide):
    """Ends after one to three steps."""

    def reset(self, *, seed=None, options=None):
        observed = super().reset(seed=seed, options=options)
        self._last_step = int(self.np_random.integers(1, 4))
        return observed

    def step(self, action):
        *step, info = super().step(action)
        return *step, {key: value for key, value in info.items() if value is not False}


def test_episodes_that_do_not_tell_of_success_where_others_do_have_failed():
    gym.register("their/TellsOfSuccessAlone-v0", entry_point=TellsOfSuccessAlone)
    try:
        task, numbers = make_task(GymnasiumEnvConfig(id="their/TellsOfSuccessAlone-v0")), range(20, 40)
        env = task.make(("joints",), num_envs=4, layouts=numbers)
        episodes = list(run_episodes(ToTheLeft(), env, numbers))
        env.close()
    finally:
        gym.registry.pop("their/TellsOfSuccessAlone-v0")
    first = next(place for place, episode in enumerate(episodes) if episode.success)
    told = [episode.success for episode in episodes]
    assert None not in told[first:]
    assert False in told[first:]
    figures = summarize(episodes)
    assert figures["success_rate"]["mean"] == told.count(True) / 20
    assert figures["success_rate"]["mean"] + figures["failures"]["failure"]["mean"] == pytest.approx(1.0)
    unknown = dataclasses.replace(episodes[first], success=None, layout=0)
    assert [e.success for e in settled([unknown, episodes[first]])] == [False, True]
    assert settled([unknown]) == [unknown]


def test_training_never_plays_what_evaluations_name():
    env = task_of().make(("joints",), num_envs=2)
    env.reset(seed=2**40)
    numbers = []
    for _ in range(12):
        *_, infos = env.step(np.zeros((2, 1), np.float32))
        numbers += list(infos.get("final_info", {}).get("layout_seed", ()))
    env.close()
    assert len(set(numbers[2:])) == 6
    assert min(numbers[2:]) >= 2**31  # the first ones are the seeds of the reset


def test_what_sensors_draw_follows_the_number_of_an_episode_wherever_it_is_played():
    def frames(num_envs):
        env = task_of("env.sensor=stereo").make(("front",), num_envs=num_envs, layouts=range(40, 46))
        observations, infos = env.reset()
        number, seen = list(infos["layout_seed"]), {}
        for _ in range(9):
            for index in range(num_envs):
                seen.setdefault(number[index], []).append(observations["front"][index].copy())
            observations, *_, infos = env.step(np.zeros((num_envs, 1), np.float32))
            for index in np.flatnonzero(infos.get("_layout_seed", ())):
                number[index] = int(infos["layout_seed"][index])
        env.close()
        return seen

    alone, beside = frames(1), frames(2)
    assert sorted(alone) == [40, 41, 42]
    for episode, shown in alone.items():
        np.testing.assert_array_equal(shown, beside[episode])


def test_depth_that_a_method_draws_leaves_pictures_for_films():
    task = task_of("env.render_depth=depth", "env.kwargs.image=false")
    task.require(Ability.FILMS)
    env = task.make(("depth", "joints"), num_envs=1, pictures=True)
    assert set(np.unique(env.reset()[0]["depth"])) == {1.0, 5.0}
    assert env.render()[0].shape == (32, 40, 3)
    env.close()


def test_a_blind_policy_of_a_task_that_draws_its_depth_draws_none(monkeypatch):
    task = task_of("env.render_depth=depth", "env.kwargs.image=false")
    assert task.cameras
    monkeypatch.setattr(WhichSide, "depth", lambda self: pytest.fail("it is drawn"))
    env = task.make(("joints",), num_envs=1)
    env.reset()
    env.step(np.zeros((1, 1), np.float32))
    env.close()


def test_actions_are_stretched_to_the_bounds_of_the_environment():
    taken = []

    class Kept(WhichSide):
        def step(self, action):
            taken.append(float(action[0]))
            return super().step(action)

    gym.register("their/Kept-v0", entry_point=Kept)
    env = task_of("env.id=their/Kept-v0").make(("joints",), num_envs=1)
    env.reset()
    for action in (-1.0, 0.5, 7.0):
        env.step(np.float32([[action]]))
    env.close()
    assert taken == [-2.0, 1.0, 2.0]


def test_stretched_actions_stay_within_the_bounds_that_rounding_would_leave():
    bounds = spaces.Box(np.float32(-0.95), np.float32(0.28), (1,), np.float32)

    class Strict(WhichSide):
        action_space = bounds

        def step(self, action):
            assert bounds.contains(action)
            return super().step(action)

    gym.register("their/Strict-v0", entry_point=Strict)
    try:
        env = make_task(GymnasiumEnvConfig(id="their/Strict-v0")).make(("joints",), num_envs=1)
    finally:
        gym.registry.pop("their/Strict-v0")
    env.reset()
    env.step(np.ones((1, 1), np.float32))
    assert bounds.contains(env._stretched(torch.ones(1, 1)).numpy()[0])
    env.close()


def test_a_z_buffer_becomes_the_depth_it_was_made_from():
    near, far = 0.1, 20.0
    depth = torch.tensor([0.1, 0.5, 3.0, 19.9])
    buffer = (far - near * far / depth) / (far - near)  # the projection's third row, from 0 to 1
    torch.testing.assert_close(ZBuffer(near, far).metres(buffer), depth, rtol=1e-4, atol=1e-4)
    assert ZBuffer(near, far).metres(torch.ones(1)) == 0.0  # nothing was hit


@pytest.mark.parametrize("algo", ["ppo", pytest.param("rsl_ppo", marks=pytest.mark.slow)])
def test_a_task_of_others_is_trained_resumed_evaluated_and_reported(algo, capsys):
    settings = (
        SHORT
        if algo == "ppo"
        else [*(x for x in SHORT if "n_" not in x and "batch" not in x), "algo.num_steps_per_env=8"]
    )
    assert train.main([*THEIRS, *ENCODER, f"algo={algo}", *settings, "evaluation.clips=1"]) == 0
    run = Run(Path("run"))
    assert {"episodes.gif", "metrics.json", "learning_curve.png"} <= {path.name for path in run.folder.iterdir()}
    assert run.config().encoder.cameras == ["front"]
    assert run.config().algo.observations == ["joints"]
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert metrics["evaluation"]["success_rate"]["episodes"] == 8
    with (run.folder / "episodes.csv").open() as file:
        assert [int(row["layout"]) for row in csv.DictReader(file)] == list(range(1_000_000, 1_000_008))
    assert train.main(["resume=run", "algo.total_steps=96"]) == 0
    assert run.state()["steps"] == 96
    options = ["episodes=4", "frames=16", "clips=1", "report=report", "num_envs=2"]
    assert evaluate.main(["run", "sensors=[ideal,stereo]", *options]) == 0, capsys.readouterr().err
    report = json.loads(Path("report/report.json").read_text())
    (policy,) = report["policies"]
    assert set(policy["by_sensor"]) == {"ideal", "stereo"}
    assert policy["task"] == "WhichSide-v0"
    assert report["measure"] == "success"


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "rsl_ppo"])
def test_a_task_of_tensors_is_trained_and_reported_as_documented(algo, caplog):
    task = ["env=gymnasium", "env.id=their_tasks:their/Tensors-v0", "env.num_envs=3", "env.kwargs={obs_mode: depth}"]
    task += ["env.depth_keys=[sensor_data/base_camera/depth]", "env.depth_unit=mm", "env.step_s=0.05"]
    encoder = ["encoder=custom", "encoder.class_name=own_networks:Vector", "encoder.weights=random"]
    short = SHORT if algo == "ppo" else [*SHORT[3:], "algo.num_steps_per_env=8"]
    assert train.main([*task, *encoder, f"algo={algo}", *short]) == 0
    run = Run(Path("run"))
    assert run.config().algo.observations == ["agent/qpos"]
    assert json.loads((run.folder / "metrics.json").read_text())["evaluation"]["success_rate"]["episodes"] == 8
    options = ["sensors=[ideal,stereo]", "episodes=4", "num_envs=2", "clips=0", "frames=8", "report=report"]
    assert evaluate.main(["run", *options]) == 0
    assert json.loads(Path("report/report.json").read_text())["measure"] == "success"
    assert check_env.main([*task, "encoder=blind", "steps=12", "envs=2"]) == 0
    assert "ERROR" not in caplog.text
    if algo == "rsl_ppo":
        assert export.main(["run"]) == 0
        file = Policy("run/policy.onnx", clock=None)
        millimetres = np.full((32, 40), 1500, np.int16)
        assert file.act(**{"sensor_data/base_camera/depth": millimetres, "agent/qpos": np.zeros(2)}).shape == (1,)


def test_without_success_reward_is_the_measure_and_the_report_says_so():
    assert train.main([*THEIRS, "encoder=blind", "env.kwargs.success_key=null", *SHORT]) == 0
    run = Run(Path("run"))
    metrics = json.loads((run.folder / "metrics.json").read_text())
    assert "success_rate" not in metrics["evaluation"]
    assert describe(metrics["evaluation"]).startswith("reward")
    assert evaluate.main(["run", "episodes=4", "report=report", "clips=0", "frames=0"]) == 0
    assert json.loads(Path("report/report.json").read_text())["measure"] == "reward"
    page = Path("report/report.html").read_text()
    assert "reward is the measure" in page
    assert "How episodes end" not in page


@pytest.mark.parametrize("encoder", ["blind", "cnn"])
def test_a_task_without_depth_trains_blind_and_others_are_told_why_not(encoder, capsys):
    status = train.main(["env=gymnasium", "env.id=CartPole-v1", f"encoder={encoder}", *SHORT])
    said = capsys.readouterr().err
    assert status == (0 if encoder == "blind" else 2), said
    if encoder == "cnn":
        assert "CartPole-v1 gives no depth" in said
        assert "encoder=blind" in said
        assert not Path("run/config.yaml").exists()


def test_features_and_memory_of_a_task_of_others(capsys, caplog):
    assert gap.main([*THEIRS, *ENCODER, "sensors=[stereo]", "frames=16"]) == 0
    assert "stereo" in caplog.text
    assert memory.main([*THEIRS, *ENCODER, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["encoding"] > 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["env.id=their/WhichSade-v0"], "Did you mean"),
        (["env.id=no_such_package:Task-v0"], "no_such_package"),
        (["env.kwargs.nonsense=1"], "cannot be made"),
        (["env.depth_keys=[frnt]"], "front"),
        (["env.depth_keys=[joints]"], "env.depth_keys"),
        (["env.vectorize=asink"], "async"),
        (["env.near=0.1"], "env.far"),
        (["env.sensor=sterio"], "env.sensor: unknown sensor"),
        (["env.near=2", "env.far=1"], "env.near, env.far"),
        (["env.id=their_tasks:their/Counts-v0"], "unit='mm'"),
        (["encoder.cameras=[belly]"], "front"),
        (["algo.observations=[state]"], "joints"),
        (
            ["env.id=their_tasks:their/Batched-v0", "env.kwargs.autoreset_mode=NextStep"],
            "SameStep",
        ),
        (["env.success_key=won"], "won"),
        (["env.measures=[height]"], "height"),
    ],
)
def test_what_does_not_fit_is_said(overrides, said, capsys):
    assert train.main([*THEIRS, *ENCODER, *SHORT, *overrides]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (lambda depth: np.full_like(depth, np.nan), "nothing but NaN"),
        (lambda depth: depth / 10.0 - 0.6, "values down to -0.5"),
    ],
)
def test_first_frames_that_are_no_depth_are_refused(seen, said, capsys):
    class NoDepth(WhichSide):
        def _observed(self):
            observed = super()._observed()
            return {**observed, "front": seen(observed["front"]).astype(np.float32)}

    gym.register("their/NoDepth-v0", entry_point=NoDepth)
    try:
        assert train.main([*THEIRS, *ENCODER, *SHORT, "env.id=their/NoDepth-v0", f"env.kwargs.steps={len(said)}"]) == 2
        refusal = capsys.readouterr().err
        assert said in refusal
        assert "check-env" in refusal
    finally:
        gym.registry.pop("their/NoDepth-v0")


def test_depth_that_is_declared_between_0_and_1_needs_a_unit(capsys, caplog):
    normalised = [*THEIRS, *ENCODER, *SHORT, "env.kwargs.depth_scale=0.1"]
    assert train.main(normalised) == 2
    refusal = capsys.readouterr().err
    assert "'front' to lie between 0 and 1" in refusal
    assert "env.depth_unit=1.0" in refusal
    task_of("env.kwargs.depth_scale=0.1", "env.depth_unit=1.0").make(["front"]).close()


def test_one_value_below_zero_marks_holes():
    class Marked(WhichSide):
        def _observed(self):
            observed = super()._observed()
            observed["front"][:4] = -1.0
            return observed

    gym.register("their/Marked-v0", entry_point=Marked)
    try:
        assert set(task_of("env.id=their/Marked-v0").cameras) == {"front"}
    finally:
        gym.registry.pop("their/Marked-v0")


def test_a_vector_with_nan_ends_with_what_to_do(capsys):
    class WithNan(WhichSide):
        def _observed(self):
            return {**super()._observed(), "joints": np.full(2, np.nan, np.float32)}

    gym.register("their/WithNan-v0", entry_point=WithNan, disable_env_checker=True)
    assert train.main([*THEIRS, "env.id=their/WithNan-v0", "encoder=blind", *SHORT]) == 2
    assert "NaN in 'joints'" in capsys.readouterr().err


def test_what_cannot_be_filmed_says_so():
    with pytest.raises(ConfigError, match="cannot be filmed"):
        task_of(*Z_BUFFER).require(Ability.FILMS)
    task_of().require(Ability.FILMS)


class OnDevice(torch.Tensor):
    """Behaves towards NumPy as a tensor on a GPU does."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy.")


class Tensors(VectorEnv):
    """Nested observations as tensors, batched last ones, infos as tensors: as ManiSkill's vector environments."""

    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    num_envs = 2
    single_observation_space = spaces.Dict(
        {
            "agent": spaces.Dict({"qpos": spaces.Box(-1, 1, (3,), np.float32)}),
            "sensor_data": spaces.Dict(
                {"base_camera": spaces.Dict({"depth": spaces.Box(-32768, 32767, (32, 40, 1), np.int16)})}
            ),
        }
    )
    single_action_space = spaces.Box(-1, 1, (2,), np.float32)
    observation_space, action_space = batch_space(single_observation_space, 2), batch_space(single_action_space, 2)

    def _observed(self):
        depth = torch.full((2, 32, 40, 1), 1500, dtype=torch.int16).as_subclass(OnDevice)
        return {
            "agent": {"qpos": torch.zeros(2, 3).as_subclass(OnDevice)},
            "sensor_data": {"base_camera": {"depth": depth}},
        }

    def reset(self, *, seed=None, options=None):
        return self._observed(), {}

    def step(self, actions):
        ended = torch.tensor([True, False])
        info = {"success": torch.tensor([True, False])}
        infos = {"final_observation": self._observed(), "final_info": info, "_final_info": ended}
        return self._observed(), torch.ones(2), ended, torch.zeros(2, dtype=torch.bool), infos


def test_tensors_stay_where_they_are():
    env = Tensors()
    observed = Observed.of(env.single_observation_space, None, depth_format=DepthFormat("mm"))
    adapted = Adapted(env, observed, ("sensor_data/base_camera/depth", "agent/qpos"), layouts=[5, 6])
    observations, _ = adapted.reset()
    depth = observations["sensor_data/base_camera/depth"]
    assert type(depth) is OnDevice
    assert depth.shape == (2, 1, 32, 40)
    assert float(depth.max()) == pytest.approx(1.5)
    _, rewards, terminated, _, infos = adapted.step(torch.zeros(2, 2))
    assert isinstance(rewards, np.ndarray)
    assert list(terminated) == [True, False]
    assert infos["final_info"]["success"][0]
    assert infos["final_info"]["layout_seed"][0] == 5
    assert infos["final_obs"][0]["agent/qpos"].shape == (3,)
    assert infos["final_obs"][1] is None
