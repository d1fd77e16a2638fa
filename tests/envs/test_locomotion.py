"""The locomotion task: robot, gait, courses, rewards and endings, and what the robot perceives."""

from pathlib import Path

import mujoco
import numpy as np
import pytest

from defm_rl.envs import LocomotionConfig, LocomotionVectorEnv
from defm_rl.envs.quadruped import LEGS, LINKS
from defm_rl.envs.robots import ROBOTS
from defm_rl.envs.terrains import FINISH_X, HALF_WIDTH_M, LEVELS, OBSTACLES_X, PIT_M, draw_course, heights_at


@pytest.fixture
def make():
    """Makes environments that are closed afterwards; without depth unless told otherwise, on flat ground."""
    made = []

    def _make(num_envs=4, **settings):
        defaults = {"level": "flat", "observations": ("state", "privileged"), "autoreset_mode": "Disabled"}
        made.append(LocomotionVectorEnv(num_envs, **{**defaults, **settings}))
        return made[-1]

    yield _make
    for env in made:
        env.close()


def walk(env, steps, action=0.0):
    """Steps with one action for all joints; what the last step gave."""
    for _ in range(steps):
        result = env.step(np.full(env.action_space.shape, action))
        if (result[2] | result[3]).any():
            break
    return result


# The robot


def test_the_robot_has_the_published_masses_lengths_and_limits():
    model = mujoco.MjSpec.from_file(str(ROBOTS["quadruped"])).compile()
    np.testing.assert_allclose(model.body("trunk").subtreemass, 12.74, atol=0.01)
    for leg in LEGS:
        assert [round(float(model.body(f"{leg}_{link}").mass[0]), 2) for link in LINKS] == [0.68, 1.01, 0.2]
        assert abs(model.body(f"{leg}_thigh").pos[1]) == 0.08
        assert -model.body(f"{leg}_calf").pos[2] == -model.geom(leg).pos[2] == 0.213
        limits = [model.actuator(f"{leg}_{link}").forcerange.tolist() for link in LINKS]
        assert limits == [[-23.7, 23.7], [-23.7, 23.7], [-35.55, 35.55]]
        ranges = [model.joint(f"{leg}_{link}_joint").range.tolist() for link in LINKS]
        assert ranges == [[-0.863, 0.863], [-0.686, 4.501], [-2.818, -0.888]]


def test_kinematics_agree_with_mujoco_and_invert(make):
    env = make(1)
    env.reset(seed=0)
    model, data = env._batch.model, mujoco.MjData(env._batch.model)
    rng = np.random.default_rng(0)
    for _ in range(20):
        angles = rng.uniform((-0.8, -0.3, -2.5), (0.8, 1.3, -0.9), (4, 3))
        env._qpos[0, :3] = rng.uniform(-1, 1, 3)
        turn = rng.normal(size=4)
        env._qpos[0, 3:7] = turn / np.linalg.norm(turn)
        env._qpos[0, env._joint_qpos] = angles.ravel()
        data.qpos[:] = env._batch.bind("qpos")[0]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(env.feet[0], [data.geom(leg).xpos for leg in LEGS], atol=1e-12)
        np.testing.assert_allclose(env._legs.angles(env._legs.feet(angles)), angles, atol=1e-9)


def test_the_reference_gait_walks_on_flat_ground_and_keeps_to_the_line(make):
    env = make(8)
    env.reset(seed=0)
    *_, terminated, _, _ = walk(env, 400)
    assert not terminated.any()
    assert (env.poses[:, 0] > 1.0).all()
    assert (np.abs(env.poses[:, 1]) < 0.15).all()


def test_diagonal_legs_step_together_as_high_as_they_should(make):
    trot = make(1)._trot
    angles = trot.angles(np.linspace(0, 1, 101), np.tile([0.4, 0.0, 0.0], (101, 1)))
    feet = trot.legs.feet(angles) - trot.stance
    np.testing.assert_allclose(feet[:, 0], feet[:, 3], atol=1e-9)
    np.testing.assert_allclose(feet[:, 1], feet[:, 2], atol=1e-9)
    np.testing.assert_allclose(feet[..., 2].max(axis=0), 0.08, atol=1e-3)
    assert (feet[..., 2] > 0.005).any(axis=1).mean() > 0.8
    assert ((feet[:, :2, 2] > 1e-6).sum(axis=1) <= 1).all()  # while one pair swings the other stands
    np.testing.assert_allclose(np.ptp(feet[..., 0], axis=0), 0.4 * 0.2, atol=1e-3)  # half a period at 0.4 m/s


def test_torques_stay_within_the_motors_limits(make):
    env = make(4)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    limits = np.tile([23.7, 23.7, 35.55], 4)
    forces = env._batch.bind("actuator_force")
    most = np.zeros(12)
    for _ in range(15):
        env.step(rng.uniform(-1, 1, (4, 12)).round())
        most = np.maximum(most, np.abs(forces).max(axis=0))
        if env._has_ended.any():
            break
    assert (most <= limits + 1e-9).all()
    assert (most > 0.5 * limits).any()


# The courses


@pytest.mark.parametrize("level", LEVELS)
def test_courses_are_new_for_each_seed_and_harder_when_told(level):
    def holes_and_steps(difficulty):
        courses = [draw_course(LEVELS[level], (difficulty,) * 2, np.random.default_rng(s)) for s in range(30)]
        assert all(course.difficulty == difficulty for course in courses)
        assert all(course.boxes.shape == (LEVELS[level].num_boxes, 7) for course in courses)
        heights = np.stack([course.heights for course in courses])
        if level != "flat":
            assert len({course.heights.tobytes() for course in courses}) == 30
        return (heights < -0.1).mean(), np.abs(heights[heights > -0.1]).mean()

    easy, hard = holes_and_steps(0.0), holes_and_steps(1.0)
    if level == "flat":
        assert easy == hard == (0.0, 0.0)
    elif level == "stairs":
        assert easy[0] == hard[0] == 0
        assert hard[1] > 4 * easy[1] > 0
    else:
        assert hard[0] > 1.5 * easy[0] > 0


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("difficulty", [0.0, 1.0])
def test_no_hole_is_wider_than_a_leg_can_step(level, difficulty):
    """Along the two lines that the feet follow, give or take 8 cm to the side."""
    for seed in range(50):
        course = draw_course(LEVELS[level], (difficulty,) * 2, np.random.default_rng(seed))
        for y in (-0.127, 0.127):
            column = int((HALF_WIDTH_M + y) / 0.02)
            ground = (course.heights[:, column - 4 : column + 5] > -0.1).any(axis=1)
            edges = np.flatnonzero(np.diff(ground.astype(int)))
            assert len(edges) % 2 == 0
            assert (edges[1::2] - edges[::2]).max(initial=0) * 0.02 <= (0.08 if difficulty == 0 else 0.2) + 0.021


@pytest.mark.parametrize("level", ["stairs", "stones"])
def test_the_height_map_is_what_rays_hit(make, level):
    env = make(2, level=level, difficulty=(1.0, 1.0))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    points = rng.uniform((-0.9, -HALF_WIDTH_M), (4.9, HALF_WIDTH_M), (2, 300, 2))
    down = np.concatenate([points, np.ones((2, 300, 1))], axis=-1)
    seen = np.array([1, 1, 1, 0, 0, 0], np.uint8)
    distance, _ = env._batch.ray(down, np.array([0.0, 0, -1]), geomgroup=seen)
    heights = heights_at(env._heights, np.arange(2), points)
    assert (np.abs(heights - (1 - distance)) < 1e-6).mean() > 0.9  # but for the cells that edges run through
    assert ((heights == -PIT_M).mean() > 0.1) == (level == "stones")


def test_the_difficulty_is_drawn_from_its_range_and_reported(make):
    env = make(30, level="mixed", difficulty=(0.3, 0.6), max_episode_steps=1)
    env.reset(seed=0)
    assert {env.course(i).obstacles for i in range(30)} == {"stairs", "gaps", "rungs", "stones"}
    difficulty = walk(env, 1)[-1]["difficulty"]
    assert 0.3 <= difficulty.min() < 0.4
    assert 0.5 < difficulty.max() <= 0.6
    np.testing.assert_array_equal(difficulty, [env.course(i).difficulty for i in range(30)])


# Endings and rewards


def end(env, change, seed=0, steps=1):
    """Changes the simulations' state after a reset; what the next steps end with."""
    env.reset(seed=seed)
    change(env)
    *_, terminated, truncated, info = walk(env, steps)
    return terminated, truncated, info


def test_the_finish_is_a_success(make):
    def jump(env):
        env._qpos[:, 0] = FINISH_X - 0.05

    terminated, _, info = end(make(2), jump, steps=40)
    assert terminated.any()
    assert (info["failure"][terminated] == "").all()
    assert info["success"][terminated].all()
    assert (info["share_traversed"][terminated] == 1).all()
    assert (info["falls"] == 0).all()


def test_a_foot_in_a_hole_is_a_misstep(make):
    env = make(1, level="gaps", difficulty=(1.0, 1.0))

    def over_a_gap(env):
        heights = env.course(0).heights[:, 40]
        first = np.flatnonzero(heights < -0.1)[0] * 0.02 - 1
        env._qpos[0, 0] += first + 0.08 - env.feet[0, :2, 0].mean()

    terminated, _, info = end(env, over_a_gap, steps=30)
    assert terminated[0]
    assert info["failure"][0] == "misstep"
    assert info["falls"][0] == 1
    assert not info["success"][0]
    assert make(1, level="gaps", misstep_depth_m=0.5).config.misstep_depth_m == 0.5


def test_who_lies_on_the_ground_has_fallen(make):
    def lie(env):
        env._qpos[:, 2] = 0.03

    def overturn(env):
        env._qpos[:, 2] = 0.6
        env._qpos[:, 3:7] = [np.cos(0.6), np.sin(0.6), 0, 0]  # 69 degrees to the side, in the air

    for change in (lie, overturn):
        terminated, _, info = end(make(2), change)
        assert terminated.all()
        assert (info["failure"] == "fall").all()
        assert (info["falls"] == 1).all()


def test_leaving_the_course_ends_the_episode(make):
    def aside(env):
        env._qpos[:, 1] = 0.6

    terminated, _, info = end(make(1), aside)
    assert terminated[0]
    assert info["failure"][0] == "off_course"
    assert info["falls"][0] == 0


def test_time_runs_out_without_termination(make):
    terminated, truncated, info = end(make(2, max_episode_steps=3), lambda env: None, steps=3)
    assert not terminated.any()
    assert truncated.all()
    assert (info["failure"] == "timeout").all()
    assert make(1, speed_m_s=(0.5, 0.5)).max_episode_steps == 600


def test_failing_costs_and_walking_pays_more_than_standing(make):
    env = make(4, speed_m_s=(0.4, 0.4))
    env.reset(seed=0)
    walking = sum(env.step(np.zeros((4, 12)))[1] for _ in range(100))
    assert (walking > 1.0).all()  # in two seconds at up to 1.3 a second
    env.reset(seed=0)
    env._qpos[:, 2] = 0.03
    assert (env.step(np.zeros((4, 12)))[1] < -1.9).all()
    idle = make(4, speed_m_s=(0.4, 0.4), gait_period_s=0.02)  # whole cycles a step: never moves
    idle.reset(seed=0)
    idle._phase[:] = 0.25
    standing = sum(idle.step(np.zeros((4, 12)))[1] for _ in range(100))
    assert (standing < walking - 0.5).all()


def test_energy_is_the_work_of_the_joints(make):
    env = make(2, max_episode_steps=400, control_step_s=0.005)
    env.reset(seed=0)
    start = env.poses[:, 0]
    by_hand = np.zeros(2)
    forces, speeds = env._batch.bind("actuator_force"), env._batch.bind("qvel")
    for _ in range(400):
        info = env.step(np.zeros((2, 12)))[-1]
        by_hand += 0.005 * np.abs(forces * speeds[:, 6:]).sum(axis=1)
    np.testing.assert_allclose(info["energy_j"], by_hand, rtol=1e-9)
    way = env.poses[:, 0] - start
    np.testing.assert_allclose(info["cost_of_transport"], info["energy_j"] / (12.744 * 9.81 * way), rtol=1e-3)
    np.testing.assert_allclose(info["speed_m_s"], way / 2, rtol=1e-6)
    np.testing.assert_allclose(info["share_traversed"], way / FINISH_X, rtol=1e-6)


# What the robot perceives


def test_the_state_says_what_the_robot_measures(make):
    env = make(2)
    observation = env.reset(seed=0)[0]["state"]
    np.testing.assert_allclose(observation[:, :3], [[0, 0, -1]] * 2, atol=1e-6)  # level at the start
    np.testing.assert_array_equal(observation[:, 30:42], 0)  # no action yet
    env._qpos[0, 3:7] = [np.cos(0.15), 0, np.sin(0.15), 0]  # nose 0.3 rad down
    np.testing.assert_allclose(env._vector("state", np.array([0]))[0, :3], [np.sin(0.3), 0, -np.cos(0.3)], atol=1e-6)
    action = np.linspace(-0.5, 0.5, 24).reshape(2, 12)
    observation = env.step(action)[0]["state"]
    np.testing.assert_allclose(observation[:, 30:42], action, rtol=1e-6)
    standing = np.tile([0, 0.9, -1.8], 4)
    np.testing.assert_allclose(observation[:, 6:18], env._qpos[:, env._joint_qpos] - standing, atol=1e-6)
    speed = env._speed
    np.testing.assert_allclose(observation[:, 42], speed, rtol=1e-6)
    np.testing.assert_allclose(np.hypot(*observation[:, 45:].T), 1, rtol=1e-6)


def test_commands_lead_back_to_the_line(make):
    env = make(2)
    env.reset(seed=0)
    env._qpos[:, 1] = [0.1, -0.1]
    env._qpos[:, 3:7] = [[np.cos(0.1), 0, 0, np.sin(0.1)], [np.cos(0.1), 0, 0, -np.sin(0.1)]]
    env._steer(np.arange(2))
    sideways, turn = env._vector("state", np.arange(2))[:, 43:45].T
    np.testing.assert_allclose(sideways, [-0.1, 0.1], rtol=1e-6)
    np.testing.assert_allclose(turn, [-0.5, 0.5], rtol=1e-6)


def test_the_privileged_scan_shows_holes_and_steps_where_they_are(make):
    env = make(1, level="gaps", difficulty=(1.0, 1.0))
    env.reset(seed=1)
    env._qpos[0, :7] = 0.5, 0, env._standing_height_m, 1, 0, 0, 0
    scan = env._vector("privileged", np.array([0]))[0, 12:162].reshape(25, 6)
    x = 0.5 + np.arange(-0.4, 0.81, 0.05)
    ground = env.course(0).heights[((x + 1) / 0.02).astype(int), 40]
    np.testing.assert_allclose(scan, np.repeat(np.clip(ground / 0.2, -1, 1)[:, None], 6, axis=1), atol=1e-6)
    assert -1 in scan
    env._qpos[0, :7] = 1.7, 0, env._standing_height_m, 0, 0, 0, 1  # the same ground, from the other side
    x = 1.7 - np.arange(-0.4, 0.81, 0.05)
    ground = env.course(0).heights[((x + 1) / 0.02 - 1e-6).astype(int), 40]
    scan = env._vector("privileged", np.array([0]))[0, 12:162].reshape(25, 6)
    np.testing.assert_allclose(scan[:, 0], np.clip(ground / 0.2, -1, 1), atol=1e-6)
    env._qpos[0, :7] = (
        1.0,
        0,
        env._standing_height_m,
        np.cos(np.pi / 4),
        0,
        0,
        np.sin(np.pi / 4),
    )  # to the left, along y
    env._qvel[0, :3] = 0, 0.5, 0
    privileged = env._vector("privileged", np.array([0]))[0]
    np.testing.assert_allclose(privileged[:3], [0.5, 0, 0], atol=1e-6)
    scan = privileged[12:162].reshape(25, 6)
    beside = env.course(0).heights[
        ((1.0 - np.array([-0.18, -0.13, -0.08, 0.08, 0.13, 0.18]) + 1) / 0.02).astype(int), 40
    ]
    np.testing.assert_allclose(scan[8], np.clip(beside / 0.2, -1, 1), atol=1e-6)


def test_a_teacher_knows_what_randomization_drew(make):
    ranges = {"friction_scale": (0.5, 1.2), "mass_scale": (0.9, 1.2), "motor_strength_scale": (0.8, 1.1)}
    env = make(8, randomization={**ranges, "action_latency_s": (0.0, 0.06)})
    known = env.reset(seed=0)[0]["privileged"][:, -4:]
    for k, name in enumerate(ranges):
        np.testing.assert_allclose(known[:, k], env.randomized[name] - 1, atol=1e-6)
    np.testing.assert_allclose(known[:, 3], 10 * env.randomized["action_latency_s"], atol=1e-6)
    assert (known.std(axis=0) > 0.02).all()
    np.testing.assert_array_equal(make(2).reset(seed=0)[0]["privileged"][:, -4:], 0)


def test_cameras_see_from_the_front_feet_to_a_metre_and_a_half_ahead(make):
    env = make(1, observations=("depth", "belly_depth"))
    depth = env.reset(seed=0)[0]
    env._qpos[0, :7] = 0, 0, 0.288, 1, 0, 0, 0
    seen = env._observe()
    assert depth["depth"].shape == (1, 1, 48, 64)
    rows = np.tan(np.radians(94) / 2) * (1 - (2 * np.arange(48) + 1) / 48)  # up the image, per metre of depth
    pitch = np.radians(60)
    depth = seen["depth"][0, 0, :, 32]
    ahead = 0.2785 + depth * (np.cos(pitch) + rows * np.sin(pitch))
    height = 0.288 + 0.0167 + depth * (rows * np.cos(pitch) - np.sin(pitch))
    on_course = (depth > 0) & (ahead < 4.9)
    np.testing.assert_allclose(height[on_course], 0, atol=2e-3)
    assert ahead[-1] < 0.21
    assert ahead[on_course].max() > 1.5
    # Straight down, planar depth is the same everywhere.
    np.testing.assert_allclose(seen["belly_depth"], 0.288 - 0.0437, atol=1e-3)


def test_the_belly_camera_sees_what_is_ahead_to_the_right_of_its_image(make):
    env = make(1, level="gaps", difficulty=(1.0, 1.0), observations=("belly_depth",))
    env.reset(seed=0)
    heights = env.course(0).heights[:, 40]
    edge = np.flatnonzero(heights < -0.1)[0] * 0.02 - 1
    env._qpos[0, :7] = edge - 0.05, 0, 0.288, 1, 0, 0, 0
    depth = env._observe()["belly_depth"][0, 0, 24]
    hole = np.flatnonzero(depth > 0.3)
    assert len(hole) > 3
    assert hole.min() > 32
    np.testing.assert_allclose(depth[:30], 0.288 - 0.0437, atol=1e-3)


# A user's own robot


def write_robot(folder: Path, change):
    text = ROBOTS["quadruped"].read_text()
    path = folder / "own.xml"
    path.write_text(change(text))
    return str(path)


def test_an_own_robot_walks(make, tmp_path):
    longer = write_robot(tmp_path, lambda text: text.replace("-0.213", "-0.25").replace('group="3"', 'group="1"'))
    env = make(2, robot=longer)
    env.reset(seed=0)
    assert env._legs.thigh_m == env._legs.calf_m == 0.25
    assert env._standing_height_m > 0.32
    *_, terminated, _, _ = walk(env, 150)
    assert not terminated.any()
    assert (env.poses[:, 0] > 0.2).all()
    unseen = make(1, robot=longer, observations=("belly_depth",))  # its legs would otherwise be in sight
    unseen.reset(seed=0)
    unseen._qpos[0, 3:7] = [1, 0, 0, 0]
    assert np.ptp(unseen._observe()["belly_depth"]) < 2e-3


@pytest.mark.parametrize(
    ("there", "instead", "message"),
    [
        ("FR_calf_joint", "knee", "lacks joints FR_calf_joint"),
        ('name="RL" class="foot"', 'name="RL" class="foot" type="box" size="1 1 1"', "geom 'RL' must be a sphere"),
        ("<freejoint/>", '<joint name="up" type="slide"/>', "one joint, a free one"),
    ],
)
def test_a_robot_that_lacks_something_is_refused(tmp_path, there, instead, message):
    robot = write_robot(tmp_path, lambda text: text.replace(there, instead))
    with pytest.raises(ValueError, match=message):
        LocomotionVectorEnv(robot=robot)


# What it refuses


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"difficulty": (0.5, 0.2)}, "difficulty must be"),
        ({"difficulty": (0.0, 1.5)}, "difficulty must be"),
        ({"speed_m_s": (0.0, 0.5)}, "speed_m_s must be positive"),
        ({"speed_m_s": (0.5, 2.0)}, "speed_m_s must be"),
        ({"camera_fov_deg": 180.0}, "camera_fov_deg must lie between"),
        ({"gait_period_s": 0.0}, "gait_period_s must be positive"),
    ],
)
def test_bad_numbers_are_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        LocomotionConfig(**settings)


def test_there_is_no_course_before_the_first_reset(make):
    with pytest.raises(RuntimeError, match="no course before the first reset"):
        make(1).course(0)


def test_obstacles_lie_between_start_and_finish():
    for level in LEVELS.values():
        course = draw_course(level, (1.0, 1.0), np.random.default_rng(0))
        x = np.arange(course.heights.shape[0]) * 0.02 - 1
        outside = course.heights[(x < OBSTACLES_X[0] - 0.02) | (x > OBSTACLES_X[1] + 0.02)]
        np.testing.assert_array_equal(outside, 0)
