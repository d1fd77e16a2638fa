"""The navigation task: rewards and endings, layouts, robots, and what it refuses."""

import numpy as np
import pytest
from playing import all_do, run_episodes

from defm_rl.envs import NavigationVectorEnv
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


def test_chosen_layouts_give_the_same_results_whatever_the_number_of_environments(make):
    seeds = range(1000, 1030)
    few = run_episodes(make(3, level="boxes"), drive_straight, seeds)
    many = run_episodes(make(16, level="boxes"), drive_straight, seeds)
    for seed in seeds:
        assert {**few[seed], "pose": None} == {**many[seed], "pose": None}


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


# What it refuses


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"level": "two_wals"}, "did you mean 'two_walls'"), ({"horizontal_fov_deg": 180.0}, "between 0 and 180")],
)
def test_bad_settings_are_errors_that_say_what_is_wrong(settings, message):
    with pytest.raises(ValueError, match=message):
        NavigationVectorEnv(**settings)


def test_there_is_no_layout_before_the_first_reset(make):
    with pytest.raises(RuntimeError, match="no layout before the first reset"):
        make(2).layout(0)
