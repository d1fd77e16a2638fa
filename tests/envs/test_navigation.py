"""The navigation task: rewards and endings, seeds, autoreset, interfaces, and what it refuses."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as check_gymnasium
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.env_checker import check_env as check_sb3

from defm_rl.envs import NavigationConfig, NavigationEnv, NavigationVectorEnv
from defm_rl.envs.layouts import LEVELS
from defm_rl.envs.navigation import oracle_action

STAND, AHEAD = (-1.0, 0.0), (1.0, 0.0)


@pytest.fixture
def make():
    """Makes environments that are closed afterwards; blind unless told otherwise, as most tests need no depth."""
    made = []

    def _make(num_envs=4, **settings):
        env = NavigationVectorEnv(num_envs, **{"observations": ("state",), **settings})
        made.append(env)
        return env

    yield _make
    for env in made:
        env.close()


def all_do(env, action):
    return np.tile(np.asarray(action, np.float32), (env.num_envs, 1))


def run_episodes(env, policy, seeds):
    """Plays every layout once; results by layout seed."""
    env.reset(seed=0, options={"layout_seeds": seeds})
    results = {}
    for _ in range(env.max_episode_steps * len(seeds)):
        if len(results) == len(seeds):
            return results
        info = env.step(policy(env))[-1]
        ended = info.get("final_info", info)
        for i in np.flatnonzero(ended.get("_success", [])):
            if ended["layout_seed"][i] in seeds:
                results[int(ended["layout_seed"][i])] = {
                    name: values[i] for name, values in ended.items() if not name.startswith("_")
                }
    raise AssertionError(f"only {len(results)} of {len(seeds)} layouts were played")


def drive_straight(env):
    state = env._vector("state", np.arange(env.num_envs))
    bearing = np.arctan2(state[:, 2], state[:, 1])
    return np.column_stack([np.ones(env.num_envs), np.clip(2 * bearing, -1, 1)])


def mean(results, name):
    return np.mean([result[name] for result in results.values()])


# The task


@pytest.mark.parametrize("level", LEVELS)
def test_who_knows_the_map_gets_there_and_who_drives_straight_only_where_nothing_stands(make, level):
    env = make(20, level=level)
    oracle = run_episodes(env, oracle_action, range(40))
    assert mean(oracle, "success") >= 0.95
    assert mean(oracle, "spl") >= 0.93
    straight = run_episodes(env, drive_straight, range(40))
    if level == "open":
        assert mean(straight, "success") == 1
    else:
        assert mean(straight, "success") <= (0.0 if "wall" in level else 0.15)
        assert mean(straight, "collision") >= 0.85
    for result in straight.values():
        assert result["failure"] == ("" if result["success"] else "collision" if result["collision"] else "timeout")


def test_rewards_add_up_to_progress_penalties_and_the_prize(make):
    env = make(1, level="two_walls", autoreset_mode="Disabled")
    env.reset(seed=3)
    at_start = env.geodesic_m(env.poses[:, :2])[0]
    total, steps, terminated = 0.0, 0, False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(oracle_action(env))
        total, steps = total + reward[0], steps + 1
        assert not truncated[0]
    at_end = env.geodesic_m(env.poses[:, :2])[0]
    assert info["success"][0]
    assert info["steps"][0] == steps
    np.testing.assert_allclose(total, at_start - at_end - 0.02 * steps + 5.0, rtol=1e-9)
    assert np.hypot(*(env.poses[0, :2] - env.layout(0).goal)) < 0.3


def test_a_collision_ends_the_episode_and_costs_one(make):
    env = make(8, level="two_walls", autoreset_mode="Disabled")
    env.reset(seed=0)
    rewards, terminated = np.zeros(8), np.zeros(8, bool)
    while not terminated.any():
        _, rewards, terminated, _, info = env.step(all_do(env, AHEAD))
    assert info["collision"][terminated].all()
    assert not info["success"][terminated].any()
    assert (info["failure"][terminated] == "collision").all()
    assert (info["spl"][terminated] == 0).all()
    # At 1.5 m/s progress is worth at most 0.3 a step.
    assert (rewards[terminated] < -0.7).all()
    assert (rewards[~terminated] > -0.4).all()


def test_bumping_is_what_geometry_says(make):
    """Drops standing rovers anywhere: those that overlap a box or a wall collide, those well clear of all do not."""
    env = make(64, level="boxes", autoreset_mode="Disabled")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    x_min, y_min, x_max, y_max = env.level.bounds
    env._qpos[:, :2] = rng.uniform((x_min, y_min), (x_max, y_max), (64, 2))
    gap = np.array([free_space(env.layout(i), env.poses[i, :2]) for i in range(64)])
    assert (gap < -0.01).sum() > 10
    env.step(all_do(env, STAND))
    bumped = env._collision
    assert bumped[gap < -0.01].all()
    assert not bumped[gap > 0.02].any()


def free_space(layout, position, radius=0.2):
    x_min, y_min, x_max, y_max = layout.bounds
    gaps = [position[0] - x_min, x_max - position[0], position[1] - y_min, y_max - position[1]]
    for x, y, half_x, half_y, yaw in layout.boxes:
        turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
        outside = np.abs(turn @ (position - (x, y))) - (half_x, half_y)
        gaps.append(np.hypot(*np.maximum(outside, 0)) + min(outside.max(), 0))
    return min(gaps) - radius


def test_commands_move_the_rover_as_they_say(make):
    env = make(1, level="open", autoreset_mode="Disabled")
    env.reset(seed=1)
    start = env.poses[0]
    for _ in range(5):
        state = env.step(np.array([AHEAD]))[0]["state"][0]
    np.testing.assert_allclose(state[3:6], [1.5, 0, 0], atol=0.02)
    moved = env.poses[0] - start
    np.testing.assert_allclose(np.arctan2(moved[1], moved[0]), start[2], atol=1e-3)
    assert 1.2 < np.hypot(*moved[:2]) < 1.5  # a second at 1.5 m/s, less the time to get going
    for _ in range(5):
        state = env.step(np.array([(-1.0, 1.0)]))[0]["state"][0]
    np.testing.assert_allclose(state[3:], [0, 0, 2.5 / 2, -1, 1], atol=0.03)
    assert env.poses[0, 2] > start[2] + 2


def test_the_state_says_where_the_goal_is(make):
    env = make(4, level="two_walls")
    observation = env.reset(seed=4)[0]
    for i in range(4):
        to_goal = env.layout(i).goal - env.poses[i, :2]
        bearing = np.arctan2(to_goal[1], to_goal[0]) - env.poses[i, 2]
        expected = [np.hypot(*to_goal) / 5, np.cos(bearing), np.sin(bearing), 0, 0, 0, 0, 0]
        np.testing.assert_allclose(observation["state"][i], expected, atol=1e-6)


def test_spl_is_the_share_of_the_way_that_was_needed(make):
    def detour(env):
        action = oracle_action(env)
        turning = env._elapsed < 20
        action[turning] = (0.0, 1.0)  # a circle and a half first
        return action

    env = make(1, level="open")
    (result,) = run_episodes(env, detour, [5]).values()
    assert result["success"]
    assert result["path_length_m"] > result["geodesic_m"] + 2
    np.testing.assert_allclose(result["spl"], result["geodesic_m"] / result["path_length_m"])


def test_standing_still_is_cut_off_and_not_terminated(make):
    env = make(2, max_episode_steps=7, autoreset_mode="Disabled")
    env.reset(seed=0)
    for step in range(1, 8):
        _, reward, terminated, truncated, info = env.step(all_do(env, STAND))
        assert not terminated.any()
        assert truncated.all() == (step == 7)
    np.testing.assert_allclose(reward, -0.02, atol=1e-6)
    assert not info["success"].any()
    assert not info["collision"].any()
    assert (info["failure"] == "timeout").all()
    assert (info["steps"] == 7).all()


def test_levels_have_their_own_length(make):
    assert make(1, level="corridors").max_episode_steps == 150
    assert make(1, level="corridors", max_episode_steps=9).max_episode_steps == 9


# Seeds


def record(env, seed, steps=40):
    rng = np.random.default_rng(0)
    observation, info = env.reset(seed=seed)
    seen = [observation["depth"], observation["state"], info["layout_seed"]]
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, (env.num_envs, 2)))
        seen += [observation["depth"], observation["state"], reward, terminated, truncated]
    return seen


@pytest.mark.parametrize("renderer", ["egl", "rays"])
def test_the_same_seed_gives_the_same_episodes_to_the_last_bit(make, renderer):
    both = ("depth", "state")
    first = record(make(3, observations=both, renderer=renderer), seed=6)
    same_env = make(3, observations=both, renderer=renderer, threads=1)
    record(same_env, seed=99, steps=5)
    again = record(same_env, seed=6)
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, other)
    other_seed = record(make(3, observations=both, renderer=renderer), seed=7)
    assert not np.array_equal(first[0], other_seed[0])


def test_each_environment_has_its_own_seed(make):
    env = make(3)
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


def test_chosen_layouts_give_the_same_results_whatever_the_number_of_environments(make):
    seeds = range(1000, 1030)
    few = run_episodes(make(3, level="boxes"), drive_straight, seeds)
    many = run_episodes(make(16, level="boxes"), drive_straight, seeds)
    for seed in seeds:
        assert {**few[seed], "pose": None} == {**many[seed], "pose": None}


def test_layouts_chosen_at_construction_begin_every_full_reset(make):
    env = make(2, layout_seeds=[1004, 1001])
    for _ in range(2):
        np.testing.assert_array_equal(env.reset(seed=0)[1]["layout_seed"], [1004, 1001])


def test_a_layouts_seed_is_the_reset_seed(make):
    env = make(2, layout_seeds=[50])
    info = env.reset(seed=8)[1]
    np.testing.assert_array_equal(info["layout_seed"], [50, 9])
    by_seed = make(1)
    by_seed.reset(seed=50)
    np.testing.assert_array_equal(env.layout(0).start, by_seed.layout(0).start)


# Autoreset


def test_all_autoreset_modes_play_the_same_episodes(make):
    """Follows environment 0 through its first end in each mode."""
    played = {}
    for mode in AutoresetMode:
        env = make(3, observations=("depth", "state"), autoreset_mode=mode)
        assert env.metadata["autoreset_mode"] is mode
        env.reset(seed=2)
        ended = False
        while not ended:
            observation, _, terminated, truncated, info = env.step(all_do(env, AHEAD))
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
            observation, reward, terminated, truncated, info = env.step(all_do(env, AHEAD))
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
        outcome = [results[name][0] for name in ("failure", "path_length_m", "geodesic_m", "layout_seed", "steps")]
        played[mode] = [*outcome, info["layout_seed"][0], *last.values(), *first.values()]
        np.testing.assert_array_equal(first["state"][3:], 0)  # a new episode begins at rest
    for other in (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED):
        for a, b in zip(played[AutoresetMode.SAME_STEP], played[other], strict=True):
            np.testing.assert_array_equal(a, b)


def one(observation, i):
    return {name: value[i] for name, value in observation.items()}


def test_disabled_autoreset_wants_a_reset(make):
    env = make(2, max_episode_steps=1, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    env.step(all_do(env, STAND))
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"environments \[0, 1\]"):
        env.step(all_do(env, STAND))
    env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(gymnasium.error.ResetNeeded, match=r"environments \[1\]"):
        env.step(all_do(env, STAND))


def test_a_masked_reset_leaves_the_others_alone(make):
    env = make(3)
    env.reset(seed=0)
    before = env.step(all_do(env, AHEAD))[0]["state"]
    after = env.reset(options={"reset_mask": np.array([False, True, False])})[0]["state"]
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])


def test_nothing_returned_is_written_again(make):
    env = make(2, observations=("depth", "state"), max_episode_steps=3)
    kept = [env.reset(seed=0)[0]]
    copies = [{name: value.copy() for name, value in kept[0].items()}]
    for _ in range(8):
        kept.append(env.step(all_do(env, AHEAD))[0])
        copies.append({name: value.copy() for name, value in kept[-1].items()})
    for observation, copy in zip(kept, copies, strict=True):
        for name, value in observation.items():
            np.testing.assert_array_equal(value, copy[name])


# Robots

OWN_ROVER = """
<mujoco model="mine">
  <option timestep="0.02" integrator="implicitfast"/>
  <default><geom contype="0" conaffinity="0" group="2"/></default>
  <worldbody>
    <body name="base">
      <joint name="x" type="slide" axis="1 0 0" damping="100"/>
      <joint name="y" type="slide" axis="0 1 0" damping="100"/>
      <joint name="yaw" axis="0 0 1"/>
      <geom name="hull" type="cylinder" size="0.15 0.05" pos="0 0 0.1" mass="4" contype="1" conaffinity="1"/>
      <geom name="antenna" size="0.05" pos="0.12 0 0.3" mass="0"/>
      <site name="axle"/>
      <camera name="depth" pos="0.05 0 0.3" xyaxes="0 -1 0 0 0 1"/>
      <body name="wheel" pos="0 0.15 0.05"><joint name="spin" axis="0 1 0"/><geom size="0.05" mass="0.1"/></body>
    </body>
  </worldbody>
  <actuator>
    <velocity name="spinner" joint="spin" kv="0.1"/>
    <velocity name="turn" joint="yaw" kv="2"/>
    <velocity name="forward" site="axle" gear="1 0 0 0 0 0" kv="2000"/>
  </actuator>
  <sensor>
    <jointpos name="odometer" joint="spin"/>
    <contact name="bumper" geom1="hull" data="found" num="1"/>
  </sensor>
</mujoco>"""


@pytest.fixture
def own_rover(tmp_path):
    path = tmp_path / "mine.xml"
    path.write_text(OWN_ROVER)
    return str(path)


def test_a_rover_of_ones_own_drives(make, own_rover):
    env = make(10, level="two_walls", robot=own_rover, randomization={"mass_scale": (0.8, 1.2)})
    assert mean(run_episodes(env, oracle_action, range(20)), "success") >= 0.95
    assert mean(run_episodes(env, drive_straight, range(20)), "collision") >= 0.85


def test_a_rover_of_ones_own_does_not_see_itself(make, own_rover):
    seen = make(2, level="open", robot=own_rover, observations=("depth",)).reset(seed=0)[0]["depth"]
    assert seen[seen > 0].min() > 0.25  # its antenna is 7 cm ahead of the camera


@pytest.mark.parametrize(
    ("part", "other", "message"),
    [
        ('name="forward"', 'name="ahead"', r"lacks actuators forward \(there are: spinner, turn, ahead\)"),
        ('name="yaw" axis', 'name="heading" axis', "lacks joints yaw"),
        ('<body name="base">', '<body name="base" pos="1 0 0">', "stand at the origin"),
        ('type="cylinder" size="0.15 0.05"', 'type="box" size="0.1 0.1 0.1"', "must be a cylinder or a sphere"),
        ('<body name="base">', '<body name="base"><joint name="lift"/>', "must come first, in this order"),
    ],
)
def test_a_rover_that_does_not_fit_is_an_error(tmp_path, part, other, message):
    assert part in OWN_ROVER
    path = tmp_path / "odd.xml"
    path.write_text(
        OWN_ROVER.replace(part, other).replace(
            'joint="yaw"', 'joint="heading"' if "heading" in other else 'joint="yaw"'
        )
    )
    with pytest.raises(ValueError, match=message):
        NavigationVectorEnv(robot=str(path))


# Interfaces


def test_observations_fit_their_spaces(make):
    env = make(3, observations=("depth", "state"), max_episode_steps=12)
    observation = env.reset(seed=0)[0]
    rng = np.random.default_rng(0)
    for _ in range(30):
        assert observation in env.observation_space
        assert observation["depth"].shape == (3, 1, 48, 96)
        assert observation["depth"].dtype == observation["state"].dtype == np.float32
        assert one(observation, 0) in env.single_observation_space
        observation, reward, terminated, truncated, info = env.step(rng.uniform(-1, 1, (3, 2)))
        assert reward.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
        for final in info.get("final_obs", []):
            assert final is None or final in env.single_observation_space


def test_what_is_not_observed_is_not_there(make):
    blind = make(2, observations=("state",))
    assert blind.renderer is None
    assert list(blind.reset(seed=0)[0]) == ["state"]
    seeing = make(2, observations=["depth"])
    assert list(seeing.reset(seed=0)[0]) == ["depth"]


@pytest.mark.parametrize("name", ["defm_rl/Navigation-v0", "defm_rl.envs:defm_rl/Navigation-v0"])
def test_gymnasium_makes_it_by_name(name):
    env = gymnasium.make_vec(name, num_envs=2, level="boxes", max_episode_steps=5)
    assert isinstance(env.unwrapped, NavigationVectorEnv)
    assert env.unwrapped.level.name == "boxes"
    assert env.unwrapped.max_episode_steps == 5
    env.close()
    env = gymnasium.make(name, level="open")
    observation, info = env.reset(seed=7)
    assert observation in env.observation_space
    assert info == {"layout_seed": 7}
    env.close()


def test_gymnasiums_checker_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_gymnasium(gymnasium.make("defm_rl/Navigation-v0").unwrapped)


def test_stable_baselines_checker_passes():
    env = NavigationEnv(level="boxes")
    check_sb3(env)
    env.close()


def test_the_single_environment_plays_what_the_vector_environment_plays(make):
    single, vector = NavigationEnv(level="two_walls", observations=("state",)), make(1, level="two_walls")
    single.reset(seed=5)
    vector.reset(seed=5)
    for _ in range(60):
        _, reward, terminated, truncated, info = single.step(np.array(AHEAD))
        _, rewards, *_, vector_info = vector.step(all_do(vector, AHEAD))
        assert reward == rewards[0]
        if terminated or truncated:
            break
    assert info == {name: vector_info["final_info"][name][0].tolist() for name in info}
    assert type(info["success"]) is bool
    with pytest.raises(gymnasium.error.ResetNeeded):
        single.step(np.array(AHEAD))
    single.close()


def test_pictures_from_above(make):
    env = make(2, render_mode="rgb_array", level="boxes")
    env.reset(seed=0)
    first = env.render()
    assert [picture.shape for picture in first] == [(480, 640, 3)] * 2
    assert first[0].std() > 10
    assert not np.array_equal(first[0], first[1])
    assert make(1).render() is None


def test_hydras_lists_are_welcome(make):
    config = NavigationConfig(depth_size=[12, 24], observations=["depth"])
    assert make(2, config=config, observations=["depth"]).reset(seed=0)[0]["depth"].shape == (2, 1, 12, 24)


# What it refuses


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"level": "two_wals"}, ValueError, "did you mean 'two_walls'"),
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
        ({"horizontal_fov_deg": 180.0}, ValueError, "between 0 and 180"),
        ({"layout_seeds": [-1]}, ValueError, "must not be negative"),
        ({"robot": "rovr"}, ValueError, "did you mean 'rover'"),
        ({"randomization": {"mas_scale": (1, 2)}}, ValueError, "unknown randomization 'mas_scale', did you mean 'mass_scale'"),
    ],
)
def test_bad_settings_are_errors_that_say_what_is_wrong(settings, error, message):
    with pytest.raises(error, match=message):
        NavigationVectorEnv(**settings)


def test_bad_actions_are_errors(make):
    env = make(3)
    env.reset(seed=0)
    before = env.poses
    with pytest.raises(ValueError, match=r"environments \[1\] are not finite"):
        env.step(np.array([[0, 0], [np.nan, 0], [0, 0]]))
    with pytest.raises(ValueError, match=r"shape \(3, 2\), got \(3,\)"):
        env.step(np.zeros(3))
    np.testing.assert_array_equal(env.poses, before)


def test_actions_beyond_their_bounds_are_clipped(make):
    far, edge = make(1), make(1)
    far.reset(seed=0)
    edge.reset(seed=0)
    beyond = far.step(np.array([[7.0, -9.0]]))[0]["state"]
    np.testing.assert_array_equal(beyond, edge.step(np.array([[1.0, -1.0]]))[0]["state"])


def test_bad_resets_are_errors(make):
    env = make(2)
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(all_do(env, STAND))
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False])})
    with pytest.raises(ValueError, match="did you mean 'layout_seeds'"):
        env.reset(options={"layout_seed": [1]})
    with pytest.raises(ValueError, match="one for each of 2 environments"):
        env.reset(seed=[1])
    with pytest.raises(ValueError, match="reset_mask must be"):
        env.reset(seed=0, options={"reset_mask": np.array([1, 0])})
    with pytest.raises(RuntimeError, match="no layout before the first reset"):
        env.layout(0)


def test_a_closed_environment_says_so(make):
    env = make(1, observations=("depth",))
    env.reset(seed=0)
    env.close()
    env.close()
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.step(all_do(env, STAND))
    with pytest.raises(gymnasium.error.ClosedEnvironmentError):
        env.reset()
