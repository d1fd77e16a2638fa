"""The manipulation task: what grasping takes, how the arm obeys, what is seen and known, and what it refuses."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest
from playing import all_do, run_episodes

from defm_rl.envs import ManipulationConfig, ManipulationVectorEnv
from defm_rl.envs.manipulation import oracle_action
from defm_rl.envs.objects import LEVELS, SHAPES, draw_scene
from defm_rl.envs.robots import ROBOTS

IDLE = np.zeros(5)
KNOWN = ("state", "privileged")


@pytest.fixture
def make():
    """Makes environments that are closed afterwards; blind unless told otherwise, as most tests need no depth."""
    made = []

    def _make(num_envs=4, **settings):
        env = ManipulationVectorEnv(num_envs, **{"observations": KNOWN, **settings})
        made.append(env)
        return env

    yield _make
    for env in made:
        env.close()


def rate(results):
    return np.mean([result["success"] for result in results.values()])


def grope(env):
    """Goes down in the middle, closes there and comes up again: what is best without seeing."""
    steps, command = env._elapsed, env.commanded_poses
    goal = np.tile([0.5, 0.0, 0.025, 0.0], (env.num_envs, 1))
    goal[steps > 20, 2] = 0.3
    move = np.clip((goal - command) / (0.04, 0.04, 0.04, 0.25), -1, 1)
    return np.column_stack([move, np.where(steps > 12, -1.0, 1.0)])


# The task


@pytest.mark.parametrize(("level", "least"), [("cube", 0.97), ("shapes", 0.88), ("clutter", 0.7)])
@pytest.mark.sweep(3)
def test_who_knows_where_the_object_is_lifts_it_and_who_gropes_does_not(make, level, least):
    env = make(40, level=level)
    seeds = range(40)
    assert rate(run_episodes(env, oracle_action, seeds)) >= least
    assert rate(run_episodes(env, grope, seeds)) <= 0.25


def test_success_is_an_object_held_up_for_half_a_second(make):
    env = make(1, autoreset_mode="Disabled")
    env.reset(seed=3)
    rest, heights, terminated = env.object_poses[0, 0, 2], [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(oracle_action(env))
        heights.append(env.object_poses[0, 0, 2] - rest)
        assert not truncated[0]
    up = np.array(heights) >= 0.1
    assert up[-5:].all()
    assert up.sum() == 5
    assert info["success"][0]
    assert info["failure"][0] == ""
    assert reward[0] > 4
    np.testing.assert_allclose(info["lift_height_m"][0], heights[-1])
    np.testing.assert_allclose(info["time_to_success_s"][0], 0.1 * len(heights))


def test_rewards_add_up_to_what_was_achieved(make):
    env = make(1, autoreset_mode="Disabled")
    env.reset(seed=5)
    total, steps, held, terminated = 0.0, 0, 0, False
    while not terminated:
        _, reward, terminated, _, _ = env.step(oracle_action(env))
        total, steps = total + reward[0], steps + 1
        held += env._holds(np.arange(1)).any()
    # What was left to win of nearness, an object between both fingers, height, the prize.
    np.testing.assert_allclose(total, 0.75 + 1 + 2 + 5 - 0.02 * steps + 0.1 * held, atol=0.4)
    assert held > 5


def test_an_object_pressed_upon_by_closed_fingers_is_not_held(make):
    env = make(4, autoreset_mode="Disabled")
    env.reset(seed=0)
    pressed, rewards = np.zeros(4, bool), []
    for step in range(24):
        over = env.object_poses[:, 0, :2] - env.commanded_poses[:, :2]
        down = 0.0 if step < 10 else -0.02
        action = np.column_stack([over / 0.04, np.full(4, down / 0.04), np.zeros(4), np.full(4, -1.0)])
        rewards.append(env.step(np.clip(action, -1, 1))[1])
        pressed |= env._touches(np.arange(4))[:, 0].all(axis=1)
        assert not env._holds(np.arange(4)).any()
    assert pressed.any()
    assert np.sum(rewards, axis=0).max() < 0.76  # of nearness


def test_a_share_of_drawn_layouts_begins_ready_to_grasp_and_none_that_is_named(make):
    env = make(60, ready_share=0.5)

    def ready(seed):
        env.reset(seed=seed)
        return np.linalg.norm(env.gripper_poses[:, :2] - env.object_poses[:, 0, :2], axis=1) < 0.006

    assert 0.3 < ready(2**31).mean() < 0.7
    assert ready(0).mean() < 0.1


def test_who_stands_still_runs_out_of_time(make):
    env = make(2, max_episode_steps=4, autoreset_mode="Disabled")
    env.reset(seed=0)
    for step in range(1, 5):
        _, reward, terminated, truncated, info = env.step(all_do(env, IDLE))
        assert not terminated.any()
        assert truncated.all() == (step == 4)
    np.testing.assert_allclose(reward, -0.02, atol=0.01)
    assert info["failure"].tolist() == ["timeout", "timeout"]
    assert np.isnan(info["time_to_success_s"]).all()
    assert not info["success"].any()


def test_an_object_let_go_is_a_drop(make):
    def lets_go(env):
        action = oracle_action(env)
        has_it = env.object_poses[:, 0, 2] > 0.1
        dropped.__ior__(has_it)
        action[dropped] = IDLE
        return action

    dropped = np.zeros(1, bool)
    env = make(1, autoreset_mode="Disabled")
    env.reset(seed=1)
    ended = False
    while not ended:
        _, _, terminated, truncated, info = env.step(lets_go(env))
        ended = terminated[0] or truncated[0]
    assert info["failure"][0] == "drop"
    assert info["lift_height_m"][0] < 0.02


def test_an_object_out_of_reach_is_lost_and_costs_one(make):
    env = make(3, autoreset_mode="Disabled")
    env.reset(seed=0)
    env._qpos[0, env._object_qpos[0, 1]] = 0.45  # far aside
    env._qpos[1, env._object_qpos[0, :3]] = 0.5, 0.0, -0.3  # below the table
    _, reward, terminated, _, info = env.step(all_do(env, IDLE))
    assert terminated.tolist() == [True, True, False]
    assert info["failure"].tolist()[:2] == ["lost", "lost"]
    assert (reward[:2] < -0.9).all()


def test_levels_have_their_objects(make):
    for level, count in (("cube", 1), ("shapes", 1), ("clutter", 3)):
        env = make(2, level=level)
        env.reset(seed=0)
        assert env.object_poses.shape == (2, count, 7)
        assert len(env.objects(1)) == count


# The objects


def test_scenes_have_all_shapes_apart_from_each_other_and_narrow_enough_to_grasp():
    things, positions = [], []
    for seed in range(200):
        scene = draw_scene(LEVELS["clutter"], seed)
        for a, b in ((0, 1), (0, 2), (1, 2)):
            assert np.linalg.norm(scene[a].position - scene[b].position) > scene[a].radius_m + scene[b].radius_m
        things += scene
        positions += [thing.position for thing in scene]
    assert {thing.shape for thing in things} == set(SHAPES)
    assert all(thing.half_sizes[0, 1] < 0.035 for thing in things)
    assert all(0.003 < thing.mass_kg < 0.4 for thing in things)
    low, high = np.min(positions, axis=0), np.max(positions, axis=0)
    np.testing.assert_allclose([*low[:2], *high[:2]], [0.4, -0.15, 0.6, 0.15], atol=0.01)
    same, other = draw_scene(LEVELS["clutter"], 7), draw_scene(LEVELS["clutter"], 8)
    assert same[0].mass_kg == draw_scene(LEVELS["clutter"], 7)[0].mass_kg != other[0].mass_kg


@pytest.mark.parametrize("shape", SHAPES)
def test_mass_and_inertia_are_those_of_solids(make, shape):
    thing = next(t for seed in range(100) for t in draw_scene(LEVELS["shapes"], seed) if t.shape == shape)
    spec = mujoco.MjSpec()
    body = spec.worldbody.add_body()
    kind = {"cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER, "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID}
    for half, offset in zip(thing.half_sizes, thing.offsets, strict=True):
        if half.any():
            size = [half[0], half[2], 0] if shape == "cylinder" else half
            body.add_geom(type=kind.get(shape, mujoco.mjtGeom.mjGEOM_BOX), size=size, pos=offset)
    model = spec.compile()
    scale = thing.mass_kg / model.body_mass[1]
    assert 0.199 < scale < 0.801  # MuJoCo's density is 1000
    np.testing.assert_allclose(np.sort(thing.inertia), np.sort(model.body_inertia[1] * scale), rtol=1e-6)
    np.testing.assert_allclose(model.body_ipos[1], 0, atol=1e-9)


@pytest.mark.parametrize("level", LEVELS)
def test_objects_lie_still_until_they_are_touched(make, level):
    env = make(32, level=level)
    env.reset(seed=0)
    before = env.object_poses
    for _ in range(10):
        env.step(all_do(env, IDLE))
    # They settle by a fraction of a millimetre.
    np.testing.assert_allclose(env.object_poses[..., :3], before[..., :3], atol=1e-3)


def test_nothing_explodes_under_wild_commands(make):
    env = make(32, level="clutter")
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    action = all_do(env, IDLE)
    for step in range(100):
        if step % 5 == 0:
            action = rng.choice([-1.0, 1.0], (32, 5))
        env.step(action)
        speed = np.linalg.norm(env._qvel[:, env._object_dofs[:, :3]], axis=-1)
        assert speed.max() < 4
        assert np.abs(env._qvel[:, env._arm_dofs]).max() < 6
    assert not env._batch.warning.any()


# The arm


def test_commands_move_the_gripper_as_they_say(make):
    env = make(1, autoreset_mode="Disabled", max_episode_steps=100)
    env.reset(seed=1)
    for axis, step in ((0, 0.04), (1, 0.04), (2, 0.04), (3, 0.25)):
        for sign in (1, -1):
            start = env.commanded_poses[0]
            action = np.zeros((1, 5))
            action[0, axis] = sign
            env.step(action)
            for _ in range(8):
                observation = env.step(all_do(env, IDLE))[0]
            expected = start.copy()
            expected[axis] += sign * step
            np.testing.assert_allclose(env.commanded_poses[0], expected, atol=1e-3)
            np.testing.assert_allclose(env.gripper_poses[0], expected, atol=0.004)
    np.testing.assert_allclose(observation["state"][0, 21:24] @ [0, 0, 1], 0, atol=0.02)  # it still points down
    assert observation["state"][0, 14] == pytest.approx(1, abs=0.02)
    for _ in range(12):
        observation = env.step(np.array([[0, 0, 0, 0, -1.0]]))[0]
    assert observation["state"][0, 14] == pytest.approx(0, abs=0.02)


def test_the_command_waits_for_the_arm_and_stays_in_the_workspace(make):
    env = make(1, autoreset_mode="Disabled")
    env.reset(seed=1)
    for _ in range(20):
        env.step(np.array([[1.0, 1, -1, 1, 1]]))
        ahead = np.abs(env.commanded_poses - env.gripper_poses)
        assert (ahead < (0.05, 0.05, 0.05, 0.3)).all()
    np.testing.assert_allclose(env.commanded_poses[0], [0.7, 0.3, 0.012, 1.75], atol=0.02)


def test_state_and_privileged_say_what_is_there(make):
    env = make(6, level="clutter", autoreset_mode="Disabled")
    env.reset(seed=2)
    for _ in range(6):
        observation = env.step(oracle_action(env))[0]
    for i in range(6):
        model, data = env._batch.get_model(i), env._batch.get_data(i)
        mujoco.mj_forward(model, data)
        site, state = data.site("arm/pinch"), observation["state"][i]
        np.testing.assert_allclose(state[:7], data.qpos[:7] - model.key("arm/home").qpos[:7], atol=1e-5)
        np.testing.assert_allclose(state[7:14], data.qvel[:7], atol=1e-5)
        np.testing.assert_allclose(state[14], data.qpos[7:9].mean() / 0.04, atol=1e-5)
        np.testing.assert_allclose(state[15:18], (site.xpos - (0.5, 0, 0.2)) / 0.1, atol=1e-5)
        rotation = site.xmat.reshape(3, 3)
        np.testing.assert_allclose(state[18:24], [*rotation[:, 0], *rotation[:, 1]], atol=1e-5)

        told = observation["privileged"][i, 4:].reshape(3, 27)
        assert (np.diff(np.linalg.norm(told[:, :3], axis=1)) >= 0).all()
        by_mass = {round(float(thing.mass_kg), 5): k for k, thing in enumerate(env.objects(i))}
        for row in told:
            k = by_mass[round(float(row[22]) / 10, 5)]
            thing, body = env.objects(i)[k], data.body(f"object{k}")
            np.testing.assert_allclose(row[:3], rotation.T @ (body.xpos - site.xpos) / 0.1, atol=1e-4)
            turned = rotation.T @ body.xmat.reshape(3, 3)
            np.testing.assert_allclose(row[3:9], [*turned[:, 0], *turned[:, 1]], atol=1e-5)
            velocity = np.zeros(6)
            mujoco.mj_objectVelocity(model, data, mujoco.mjtObj.mjOBJ_BODY, body.id, velocity, 0)
            np.testing.assert_allclose(row[9:12], rotation.T @ velocity[3:], atol=1e-4)
            np.testing.assert_allclose(row[12:15], rotation.T @ velocity[:3] / 5, atol=1e-4)
            np.testing.assert_allclose(row[15:18], thing.half_extents * 20, rtol=1e-5)
            assert row[18:22].tolist() == [shape == thing.shape for shape in SHAPES]
            np.testing.assert_allclose(row[23], thing.friction, rtol=1e-5)


def test_the_teacher_feels_a_grasp(make):
    env = make(1, autoreset_mode="Disabled")
    observation = env.reset(seed=3)[0]
    felt = [observation["privileged"][0, -3:-1].tolist()]
    while not env._success[0]:
        observation = env.step(oracle_action(env))[0]
        felt.append(observation["privileged"][0, -3:-1].tolist())
    assert felt[0] == [0, 0]
    assert felt[-1] == [1, 1]
    np.testing.assert_allclose(observation["privileged"][0, 0], 1, atol=1e-6)


# Depth

BOTH = ("depth", "wrist_depth")


def test_both_renderers_see_the_same_with_both_cameras(make):
    """All shapes at several moments; a pixel that an edge runs through may see either side of it."""
    seen = {}
    for renderer in ("egl", "rays"):
        env = make(6, level="clutter", observations=BOTH, renderer=renderer)
        frames = [env.reset(seed=0)[0]]
        frames += [env.step(oracle_action(env))[0] for _ in range(9)]
        seen[renderer] = {name: np.concatenate([frame[name] for frame in frames]) for name in BOTH}
    for name in BOTH:
        difference = np.abs(seen["egl"][name] - seen["rays"][name])
        assert np.median(difference) < 1e-4
        assert np.mean(difference > 1e-3) < 0.02
        assert seen["rays"][name].std() > 0.03


@pytest.mark.parametrize("renderer", ["egl", "rays"])
def test_the_cube_is_seen_where_it_is(make, renderer):
    env = make(8, observations=("depth",), renderer=renderer)
    depth = env.reset(seed=0)[0]["depth"][:, 0]
    model = env._batch.get_model(0)
    data = env._batch.get_data(0)
    mujoco.mj_forward(model, data)
    camera = data.camera("depth")
    height, width = depth.shape[1:]
    focal = height / 2 / np.tan(np.radians(model.cam_fovy[model.camera("depth").id]) / 2)
    for i in range(8):
        x, y, z = camera.xmat.reshape(3, 3).T @ (env.object_poses[i, 0, :3] - camera.xpos)
        row, column = int(height / 2 + focal * y / z), int(width / 2 - focal * x / z)
        assert -z - 0.05 < depth[i, row, column] < -z  # its front, before its middle


def test_cameras_can_be_randomized(make):
    env = make(2, observations=BOTH, randomization="grasping")
    still = make(2, observations=BOTH)
    for moved, usual in zip(env.reset(seed=0)[0].values(), still.reset(seed=0)[0].values(), strict=True):
        assert 0.002 < np.abs(moved - usual).mean() < 0.3
    np.testing.assert_array_equal(env.object_poses, still.object_poses)


def test_pictures(make):
    env = make(2, render_mode="rgb_array", level="clutter")
    env.reset(seed=0)
    first, second = env.render()
    assert first.shape == (480, 640, 3)
    assert first.std() > 10
    assert not np.array_equal(first, second)


# Randomization


def test_the_teacher_is_told_what_is_randomized(make):
    ranges = {"friction_scale": (0.5, 0.6), "mass_scale": (1.5, 2.0), "action_latency_s": (0.1, 0.2)}
    env = make(4, randomization=ranges)
    told = env.reset(seed=0)[0]["privileged"]
    usual = make(4).reset(seed=0)[0]["privileged"]
    np.testing.assert_allclose(told[:, 1], env.randomized["mass_scale"], rtol=1e-6)
    np.testing.assert_allclose(told[:, 3], env.randomized["action_latency_s"], rtol=1e-6)
    np.testing.assert_allclose(told[:, -4], usual[:, -4] * env.randomized["friction_scale"], rtol=1e-5)
    np.testing.assert_array_equal(usual[:, 1:4], [[1, 1, 0]] * 4)
    np.testing.assert_allclose(told[:, 4:-4], usual[:, 4:-4], atol=1e-3)  # the scene is the same


def test_slippery_objects_slip(make):
    usual, slippery = make(20), make(20, randomization={"friction_scale": (0.005, 0.005)})
    assert rate(run_episodes(usual, oracle_action, range(20))) == 1
    assert rate(run_episodes(slippery, oracle_action, range(20))) < 0.5


# Seeds and interfaces


@pytest.mark.parametrize("renderer", ["egl", "rays"])
def test_the_same_seed_gives_the_same_episodes_to_the_last_bit(make, renderer):
    def record(env, seed, steps=25):
        rng = np.random.default_rng(0)
        seen = [*env.reset(seed=seed)[0].values()]
        for _ in range(steps):
            observation, reward, terminated, *_ = env.step(rng.uniform(-1, 1, (env.num_envs, 5)))
            seen += [*observation.values(), reward, terminated]
        return seen

    settings = {"level": "shapes", "observations": (*BOTH, *KNOWN), "renderer": renderer, "max_episode_steps": 15}
    first = record(make(3, **settings), seed=6)
    same_env = make(3, **settings, threads=1)
    record(same_env, seed=99, steps=3)
    for one, other in zip(first, record(same_env, seed=6), strict=True):
        np.testing.assert_array_equal(one, other)


def test_chosen_layouts_give_the_same_results_whatever_the_number_of_environments(make):
    seeds = range(1000, 1012)
    few = run_episodes(make(3, level="shapes"), oracle_action, seeds)
    many = run_episodes(make(8, level="shapes"), oracle_action, seeds)
    for seed in seeds:
        np.testing.assert_equal(few[seed], many[seed])


@pytest.mark.parametrize("level", LEVELS)
def test_observations_fit_their_spaces(make, level):
    env = make(4, level=level, observations=(*BOTH, *KNOWN), max_episode_steps=12)
    observation = env.reset(seed=0)[0]
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert observation in env.observation_space
        observation, *_, info = env.step(rng.uniform(-1, 1, (4, 5)))
        for final in info.get("final_obs", []):
            assert final is None or final in env.single_observation_space


def test_gymnasium_makes_it_by_name():
    env = gymnasium.make_vec("defm_rl/Manipulation-v0", num_envs=2, level="clutter", max_episode_steps=5)
    assert isinstance(env.unwrapped, ManipulationVectorEnv)
    assert env.unwrapped.max_episode_steps == 5
    env.close()
    env = gymnasium.make("defm_rl/Manipulation-v0", level="shapes")
    observation, info = env.reset(seed=7)
    assert observation in env.observation_space
    assert info == {"layout_seed": 7}
    env.close()


# Own robots


def own_robot(folder, change=lambda text: text):
    path = Path(folder) / "own.xml"
    path.write_text(change(ROBOTS["arm"].read_text()))
    return str(path)


def test_an_own_robot_grasps(make, tmp_path):
    # Another name for everything that the task does not ask for.
    robot = own_robot(tmp_path, lambda text: text.replace('"link', '"segment').replace('"joint1"', '"base_turn"'))
    env = make(10, robot=robot)
    assert rate(run_episodes(env, oracle_action, range(10))) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace('site name="pinch"', 'site name="tip"'), "lacks sites pinch .there are: tip"),
        (lambda text: text.replace('camera name="wrist"', 'camera name="eye"'), "lacks cameras wrist"),
        (lambda text: text.replace('key name="home"', 'key name="rest"'), "lacks a keyframe 'home'"),
        (lambda text: text.replace("<worldbody>", '<worldbody><body name="stand"/>'), "one root body, there are 2"),
        (
            lambda text: text.replace('name="joint1" joint="joint1"', 'name="joint1" site="pinch" inheritrange="0"'),
            "not on joints",
        ),
    ],
)
def test_a_robot_that_does_not_fit_is_an_error_that_says_why(tmp_path, change, message):
    robot = own_robot(tmp_path, change)
    with pytest.raises(ValueError, match=message):
        ManipulationVectorEnv(1, robot=robot)


# What it refuses


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"level": "cubes"}, ValueError, "did you mean 'cube'"),
        ({"levle": "cube"}, TypeError, "unknown setting 'levle', did you mean 'level'"),
        ({"robot": "am"}, ValueError, "did you mean 'arm'"),
        ({"observations": ("wrist_dept",)}, ValueError, "did you mean 'wrist_depth'"),
        ({"max_step_m": 0.0}, ValueError, "max_step_m must be positive"),
        ({"vertical_fov_deg": 180.0}, ValueError, "between 0 and 180"),
        ({"randomization": {"friction": (1, 2)}}, ValueError, "did you mean 'friction_scale'"),
        ({"camera_position_m": (0.5, 0.0, 0.5), "camera_target_m": (0.5, 0.0, 0.5)}, ValueError, "apart"),
    ],
)
def test_bad_settings_are_errors_that_say_what_is_wrong(settings, error, message):
    with pytest.raises(error, match=message):
        ManipulationVectorEnv(**settings)


def test_objects_before_the_first_reset_are_an_error(make):
    with pytest.raises(RuntimeError, match="before the first reset"):
        make(1).objects(0)


def test_hydras_lists_are_welcome(make):
    config = ManipulationConfig(depth_size=[12, 16], observations=["depth"], camera_position_m=[1.0, 0.0, 0.6])
    assert make(2, config=config, observations=["depth"]).reset(seed=0)[0]["depth"].shape == (2, 1, 12, 16)
