"""What holds for every task: seeds, autoreset, renderers, interfaces, and what they refuse."""

import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_sb3

from defm_rl.envs import (
    LocomotionEnv,
    LocomotionVectorEnv,
    ManipulationEnv,
    ManipulationVectorEnv,
    NavigationEnv,
    NavigationVectorEnv,
)
from defm_rl.envs.core import whole_substeps


@dataclass(frozen=True)
class Task:
    """A task, and which of its observations are which."""

    name: str
    vector: Any
    single: Any
    cameras: tuple[str, ...]
    vectors: tuple[str, ...]

    @property
    def observations(self):
        return (*self.cameras, *self.vectors)


TASKS = [
    Task("Navigation", NavigationVectorEnv, NavigationEnv, ("depth",), ("state",)),
    Task("Locomotion", LocomotionVectorEnv, LocomotionEnv, ("depth", "belly_depth"), ("state", "privileged")),
    Task("Manipulation", ManipulationVectorEnv, ManipulationEnv, ("depth", "wrist_depth"), ("state", "privileged")),
]
SMALL = {"depth_size": (12, 24), "max_episode_steps": 9}


@pytest.fixture(params=TASKS, ids=lambda task: task.name)
def task(request):
    return request.param


@pytest.fixture
def make(task):
    """Makes environments of the task that are closed afterwards: short episodes, small images, all observations."""
    made = []

    def _make(num_envs=3, **settings):
        made.append(task.vector(num_envs, **{"observations": task.observations, **SMALL, **settings}))
        return made[-1]

    yield _make
    for env in made:
        env.close()


def act(env, rng):
    return rng.uniform(-1, 1, env.action_space.shape)


def record(env, seed, steps=25):
    """All that random actions lead to."""
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    seen = [*observation.values(), info["layout_seed"]]
    for _ in range(steps):
        observation, *outcome, _ = env.step(act(env, rng))
        seen += [*observation.values(), *outcome]
    return seen


def one(observation, i):
    return {name: value[i] for name, value in observation.items()}


def assert_same(first, second):
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


# Seeds


@pytest.mark.parametrize("renderer", ["egl", "rays"])
@pytest.mark.sweep(3)
def test_the_same_seed_gives_the_same_episodes_to_the_last_bit(make, renderer):
    first = record(make(renderer=renderer), seed=6)
    same_env = make(renderer=renderer, threads=1)
    record(same_env, seed=99, steps=5)
    assert_same(first, record(same_env, seed=6))
    assert not np.array_equal(first[0], record(same_env, seed=7)[0])


def test_each_environment_has_its_own_seed(make, task):
    env = make(observations=task.vectors)
    first = env.reset(seed=10)[0]["state"]
    np.testing.assert_array_equal(env.reset(seed=[12, 11, 10])[0]["state"], first[::-1])
    np.testing.assert_array_equal(env.reset(seed=11)[0]["state"][:2], first[1:])
    further = env.reset()[0]["state"]
    assert not np.array_equal(further[0], first[1])
    env.reset(seed=11)
    np.testing.assert_array_equal(env.reset()[0]["state"], further)


def test_without_a_seed_every_environment_differs(make):
    first, second = make(2).reset()[0]["state"], make(2).reset()[0]["state"]
    assert len(np.unique(np.concatenate([first, second]), axis=0)) == 4


def test_layouts_chosen_at_construction_begin_every_full_reset(make):
    env = make(2, layout_seeds=[1004, 1001])
    for _ in range(2):
        np.testing.assert_array_equal(env.reset(seed=0)[1]["layout_seed"], [1004, 1001])


def test_a_layouts_seed_alone_makes_the_episode(make):
    env = make(2, layout_seeds=[50])
    observation, info = env.reset(seed=8)
    np.testing.assert_array_equal(info["layout_seed"], [50, 9])
    assert_same(one(observation, 0).values(), one(make(1).reset(seed=50)[0], 0).values())


# Autoreset


def test_all_autoreset_modes_play_the_same_episodes(make):
    """Follows environment 0 through its first end in each mode."""
    played = {}
    for mode in AutoresetMode:
        env = make(autoreset_mode=mode)
        assert env.metadata["autoreset_mode"] is mode
        env.reset(seed=2)
        rng = np.random.default_rng(1)
        ended = False
        while not ended:
            actions = np.tile(rng.uniform(-1, 1, env.single_action_space.shape), (3, 1))
            observation, _, terminated, truncated, info = env.step(actions)
            ended = terminated[0] or truncated[0]
            if mode is AutoresetMode.DISABLED and (terminated | truncated).any() and not ended:
                env.reset(options={"reset_mask": terminated | truncated})
        if mode is AutoresetMode.SAME_STEP:
            results, last, first = info["final_info"], info["final_obs"][0], one(observation, 0)
            assert info["_final_obs"][0]
            assert info["_final_info"][0]
            assert [obs is not None for obs in info["final_obs"]] == info["_final_obs"].tolist()
        elif mode is AutoresetMode.NEXT_STEP:
            results, last = info, one(observation, 0)
            observation, reward, terminated, truncated, info = env.step(actions)
            first = one(observation, 0)
            assert reward[0] == 0
            assert not terminated[0]
            assert not truncated[0]
        else:
            results, last = info, one(observation, 0)
            mask = np.array([True, False, False])
            observation, info = env.reset(options={"reset_mask": mask})
            first = one(observation, 0)
            np.testing.assert_array_equal(info["_layout_seed"], mask)
        assert results["_success"][0]
        assert info["_layout_seed"][0]
        assert info["layout_seed"][0] != results["layout_seed"][0]
        outcome = [values[0] for name, values in results.items() if f"_{name}" in results and name != "final_obs"]
        played[mode] = [*outcome, info["layout_seed"][0], *last.values(), *first.values()]
    for other in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        assert_same(played[AutoresetMode.SAME_STEP], played[other])


def test_disabled_autoreset_wants_a_reset(make):
    env = make(2, max_episode_steps=1, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    nothing = np.zeros(env.action_space.shape)
    env.step(nothing)
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"environments \[0, 1\]"):
        env.step(nothing)
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"environments \[1\]"):
        env.step(nothing)


def test_a_masked_reset_leaves_the_others_alone(make):
    env = make()
    env.reset(seed=0)
    before = env.step(act(env, np.random.default_rng(0)))[0]
    after = env.reset(options={"reset_mask": np.array([False, True, False])})[0]
    for name in before:
        np.testing.assert_array_equal(after[name][[0, 2]], before[name][[0, 2]])
        assert not np.array_equal(after[name][1], before[name][1])


def test_nothing_returned_is_written_again(make):
    env = make(2, max_episode_steps=3)
    rng = np.random.default_rng(0)
    kept = [env.reset(seed=0)[0]]
    copies = [{name: value.copy() for name, value in kept[0].items()}]
    for _ in range(8):
        kept.append(env.step(act(env, rng))[0])
        copies.append({name: value.copy() for name, value in kept[-1].items()})
    for observation, copy in zip(kept, copies, strict=True):
        for name, value in observation.items():
            np.testing.assert_array_equal(value, copy[name])


# Renderers


def test_both_renderers_see_the_same(make, task):
    by_egl, by_rays = (make(renderer=renderer, observations=task.cameras) for renderer in ("egl", "rays"))
    rng = np.random.default_rng(0)
    seen, cast = by_egl.reset(seed=3)[0], by_rays.reset(seed=3)[0]
    for _ in range(6):
        for name in task.cameras:
            assert (np.abs(seen[name] - cast[name]) < 1e-3).mean() > 0.96  # not at pixels that an edge runs through
            assert (seen[name] > 0).mean() > 0.3
        actions = act(by_egl, rng)
        seen, cast = by_egl.step(actions)[0], by_rays.step(actions)[0]


# Interfaces


def test_observations_fit_their_spaces(make, task):
    env = make()
    observation = env.reset(seed=0)[0]
    rng = np.random.default_rng(0)
    for _ in range(25):
        assert observation in env.observation_space
        assert set(observation) == set(task.observations)
        assert {value.dtype for value in observation.values()} == {np.dtype(np.float32)}
        assert all(observation[name].shape == (3, 1, 12, 24) for name in task.cameras)
        assert one(observation, 0) in env.single_observation_space
        observation, reward, terminated, truncated, info = env.step(act(env, rng))
        assert reward.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
        for final in info.get("final_obs", []):
            assert final is None or final in env.single_observation_space


def test_every_end_says_whether_and_why(make):
    env = make(4)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    ends = 0
    for _ in range(25):
        *_, terminated, truncated, info = env.step(act(env, rng))
        results = info.get("final_info", {})
        for i in np.flatnonzero(terminated | truncated):
            ends += 1
            assert results["success"][i] == (results["failure"][i] == "")
            assert not truncated[i] or results["failure"][i] == "timeout"
            assert results["steps"][i] <= env.max_episode_steps
    assert ends >= 8


def test_what_is_not_observed_is_not_there(make, task):
    for name in task.observations:
        env = make(2, observations=[name])
        assert list(env.reset(seed=0)[0]) == [name]
        assert (env.renderer is None) == (name in task.vectors)


def test_gymnasium_makes_it_by_name(task):
    for name in (f"defm_rl/{task.name}-v0", f"defm_rl.envs:defm_rl/{task.name}-v0"):
        env = gymnasium.make_vec(name, num_envs=2, max_episode_steps=5)
        assert isinstance(env.unwrapped, task.vector)
        assert env.unwrapped.max_episode_steps == 5
        env.close()
        env = gymnasium.make(name)
        observation, info = env.reset(seed=7)
        assert observation in env.observation_space
        assert info == {"layout_seed": 7}
        env.close()


@pytest.mark.parametrize("steps", [4, 400])
@pytest.mark.sweep(3)
def test_gymnasiums_limit_is_the_tasks_own(task, steps):
    """Earlier and later than the task's, however the environment is made, and the last info says how it ended."""
    settings = {"observations": task.vectors[:1], "max_episode_steps": steps}
    if task.name == "Navigation":
        settings["level"] = "open"
    name = f"defm_rl/{task.name}-v0"
    made = gymnasium.make(name, **settings)
    again = gymnasium.make(made.spec)
    for env in (made, again):
        assert env.unwrapped.vector.max_episode_steps == steps
        env.reset(seed=0)
        taken, truncated, terminated = 0, False, False
        while not (truncated or terminated):
            _, _, terminated, truncated, info = env.step(idle(task, env.action_space))
            taken += 1
        assert info["steps"] == taken
        assert truncated == (taken == steps)
        assert not truncated or info["failure"] == "timeout"
        env.close()
    for mode in ("vector_entry_point", "sync"):
        env = gymnasium.make_vec(name, num_envs=2, vectorization_mode=mode, **settings)
        limits = env.unwrapped.call("vector") if mode == "sync" else [env.unwrapped]
        assert [limit.max_episode_steps for limit in limits] == [steps] * len(limits)
        env.close()


def idle(task, space):
    """What keeps an episode going: the rover turns on the spot, the others rest."""
    return np.array([-1.0, 0.0]) if task.name == "Navigation" else np.zeros(space.shape)


def test_without_a_limit_of_gymnasiums_the_tasks_own_holds(task):
    own = task.vector(1, observations=task.vectors[:1]).max_episode_steps
    for settings in ({}, {"max_episode_steps": -1}):
        env = gymnasium.make(f"defm_rl/{task.name}-v0", observations=task.vectors[:1], **settings)
        assert env.unwrapped.vector.max_episode_steps == own
        env.close()
    assert task.single(observations=task.vectors[:1], max_episode_steps=7).vector.max_episode_steps == 7


def test_gymnasiums_checker_passes(task):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_gymnasium(gymnasium.make(f"defm_rl/{task.name}-v0", observations=task.observations).unwrapped)


@pytest.mark.filterwarnings("ignore:It seems that your observation")  # metres are no picture for SB3's own networks
def test_stable_baselines_checker_passes(task):
    env = task.single(observations=task.observations)
    check_sb3(env)
    env.close()


def test_the_single_environment_plays_what_the_vector_environment_plays(make, task):
    settings = {"observations": task.vectors, **SMALL}
    single, vector = task.single(**settings), make(1, **settings)
    single.reset(seed=5)
    vector.reset(seed=5)
    rng = np.random.default_rng(0)
    terminated = truncated = False
    while not (terminated or truncated):
        actions = act(vector, rng)
        _, reward, terminated, truncated, info = single.step(actions[0])
        _, rewards, *_, vector_info = vector.step(actions)
        assert reward == rewards[0]
    # NaN is what an episode has that never succeeded, and equals itself here.
    np.testing.assert_equal(info, {name: vector_info["final_info"][name][0].tolist() for name in info})
    assert type(info["success"]) is bool
    with pytest.raises(gymnasium.error.ResetNeeded):
        single.step(actions[0])
    single.close()


def test_pictures(make):
    env = make(2, render_mode="rgb_array")
    env.reset(seed=0)
    first = env.render()
    assert [picture.shape for picture in first] == [(480, 640, 3)] * 2
    assert first[0].std() > 10
    assert not np.array_equal(first[0], first[1])
    assert make(1).render() is None


def test_hydras_lists_are_welcome(make):
    assert make(2, depth_size=[6, 8], observations=["depth"]).reset(seed=0)[0]["depth"].shape == (2, 1, 6, 8)


# What they refuse


def test_control_steps_are_whole_steps_of_the_physics_and_rounding_is_no_reason_to_refuse_one():
    assert [whole_substeps(*steps_s) for steps_s in ((0.12, 0.04), (0.3, 0.1), (0.0333333, 1 / 300))] == [3, 3, 10]
    for control_step_s, possible in ((0.1, "0.08 or 0.12"), (0.001, "pass 0.04")):
        with pytest.raises(ValueError, match=possible):
            whole_substeps(control_step_s, 0.04)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"level": "n0ne"}, ValueError, "unknown level 'n0ne'"),
        ({"levle": "open"}, TypeError, "unknown setting 'levle', did you mean 'level'"),
        ({"observations": ("dept",)}, ValueError, "did you mean 'depth'"),
        ({"observations": "depth"}, ValueError, "must be a tuple"),
        ({"observations": ()}, ValueError, "must be a tuple"),
        ({"depth_size": (0, 96)}, ValueError, "depth_size must be"),
        ({"num_envs": 0}, ValueError, "num_envs must be at least 1"),
        ({"threads": 0}, ValueError, "threads must be at least 1"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be at least 1"),
        ({"autoreset_mode": "samestep"}, ValueError, "did you mean 'SameStep'"),
        ({"render_mode": "human"}, ValueError, "render_mode must be"),
        ({"max_depth_m": -1.0}, ValueError, "max_depth_m must be positive"),
        ({"control_step_s": 0.013}, ValueError, "must be a whole multiple of 0.0"),
        ({"layout_seeds": [-1]}, ValueError, "must not be negative"),
        ({"randomization": {"mas_scale": (1, 2)}}, ValueError, "did you mean 'mass_scale'"),
        ({"robot": "rovr"}, ValueError, "did you mean 'rover'"),
    ],
)
def test_bad_settings_are_errors_that_say_what_is_wrong(task, settings, error, message):
    with pytest.raises(error, match=message):
        task.vector(**settings)


def test_bad_actions_are_errors_and_change_nothing(make, task):
    env = make(observations=task.vectors)
    env.reset(seed=0)
    states = env._batch.state.copy()
    actions = np.zeros(env.action_space.shape)
    with pytest.raises(ValueError, match=r"shape \(3, \d+\), got \(3,\)"):
        env.step(np.zeros(3))
    actions[1, 0] = np.nan
    with pytest.raises(ValueError, match=r"environments \[1\] are not finite"):
        env.step(actions)
    np.testing.assert_array_equal(env._batch.state, states)


def test_actions_beyond_their_bounds_are_clipped(make, task):
    far, edge = make(1, observations=task.vectors), make(1, observations=task.vectors)
    far.reset(seed=0)
    edge.reset(seed=0)
    signs = np.where(np.arange(far.action_space.shape[1]) % 2, -1.0, 1.0)[None]
    np.testing.assert_array_equal(far.step(7 * signs)[0]["state"], edge.step(signs)[0]["state"])


def test_bad_resets_are_errors(make):
    env = make(2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.zeros(env.action_space.shape))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="did you mean 'layout_seeds'"):
        env.reset(options={"layout_seed": [1]})
    with pytest.raises(ValueError, match="one for each of 2 environments"):
        env.reset(seed=[1])
    with pytest.raises(ValueError, match="reset_mask must be"):
        env.reset(seed=0, options={"reset_mask": np.array([1, 0])})


def test_a_closed_environment_says_so(make):
    env = make(1)
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.step(np.zeros(env.action_space.shape))
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.reset()


def test_what_a_robot_measures_and_is_commanded_has_names(make):
    env = make(1, observations=("state",))
    (size,) = env.single_observation_space["state"].shape
    assert len(set(env.entries["state"])) == size
    assert len({command.name for command in env.commands}) == env.single_action_space.shape[0]
    assert all(command.scale > 0 for command in env.commands)
