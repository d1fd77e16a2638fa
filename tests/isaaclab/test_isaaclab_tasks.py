"""Our navigation task run for real, and the configurations of Isaac Lab's own tasks with a depth camera."""

import math

import gymnasium
import pytest
import torch
from depth_tasks import make, term
from isaaclab.managers import ObservationTermCfg
from isaaclab_tasks.utils import load_cfg_from_registry
from isaaclab_tasks.utils.hydra import resolve_task_config

import defm_rl.envs.isaaclab  # noqa: F401  (registers the tasks)
from defm_rl.envs.isaaclab.layouts import GOAL_X_M, HALF_GAP_M, ROVER_RADIUS_M, Layouts
from defm_rl.isaaclab import DefmFeatures, DepthCamera

TASKS = sorted(name for name in gymnasium.registry if name.startswith("defm_rl/Isaac-"))
STOCK = ["Velocity-Rough-AnymalD-Depth", "Navigation-AnymalC-Depth", "Lift-Cube-Franka-Depth"]
NUM_ENVS = 4


def test_layouts_are_drawn_as_described():
    torch.manual_seed(0)
    layouts = Layouts(2000, "cpu")
    start, goal, walls = layouts.start, layouts.goal, layouts.walls
    assert start[:, 1].abs().max() <= 1.5
    assert (goal[:, 0] == GOAL_X_M).all()
    for wall in walls.unbind(1):
        line_y = start[:, 1] + (goal[:, 1] - start[:, 1]) * wall[:, 0] / GOAL_X_M
        assert ((wall[:, 1] - line_y).abs() >= HALF_GAP_M - 1e-5).all()  # the straight line misses the gap
        assert wall[:, 1].abs().max() <= 1.3 + 1e-5
        assert wall[:, 1].std() > 0.5
    assert not layouts.collides(start[:, :2]).any()


def test_the_way_to_the_goal_leads_through_the_gaps():
    layouts = Layouts(1, "cpu")
    layouts.goal[0] = torch.tensor([5.5, 1.0])
    layouts.walls[0] = torch.tensor([[1.8, -1.0], [3.7, 1.0]])
    layouts._measure(torch.arange(1))

    def to_go_m(x, y):
        return float(layouts.to_go_m(torch.tensor([[x, y]])))

    assert to_go_m(5.0, 1.0) == pytest.approx(0.5)
    assert to_go_m(3.0, 1.0) == pytest.approx(2.5, abs=0.01)  # straight through the second gap
    through_both = math.dist((0, 0), (1.8, -0.7)) + math.dist((1.8, -0.7), (3.7, 0.7)) + math.dist((3.7, 0.7), (5.5, 1))
    assert to_go_m(0.0, 0.0) == pytest.approx(through_both, rel=0.02)
    assert to_go_m(0.0, 0.0) > math.dist((0, 0), (5.5, 1))


@pytest.mark.parametrize(
    ("position", "collides"),
    [
        ((1.8, -1.0), False),  # in the middle of a gap
        ((1.8, -1.0 + HALF_GAP_M - ROVER_RADIUS_M + 0.01), True),  # too near to its edge
        ((1.8 - 0.1 - ROVER_RADIUS_M - 0.01, 1.0), False),  # just before the wall
        ((1.8 - 0.1 - ROVER_RADIUS_M + 0.01, 1.0), True),
        ((0.0, 1.85), True),  # at the side of the arena
        ((-0.85, 0.0), True),  # at its back
    ],
)
def test_collisions_are_those_of_a_disc(position, collides):
    layouts = Layouts(1, "cpu")
    layouts.walls[0] = torch.tensor([[1.8, -1.0], [3.7, 1.0]])
    assert layouts.collides(torch.tensor([position])).item() == collides


@pytest.fixture(scope="module")
def navigation():
    overrides = [
        f"env.scene.num_envs={NUM_ENVS}",
        "env.sim.device=cpu",
        "env.observations.depth.features.params.weights=random",
        "env.observations.depth.features.params.encoder=defm_efficientnet_b0",
    ]
    cfg, _ = resolve_task_config("defm_rl/Isaac-Navigation-v0", None, overrides=overrides)
    cfg.seed = 0
    with make(cfg) as env:
        env.reset(seed=0)
        yield env


def layouts_of(env):
    return env.event_manager.get_term_cfg("layout").func.layouts


def test_the_camera_sees_the_walls_where_the_layout_says(navigation):
    env = navigation
    observations, _ = env.reset()
    depth = DepthCamera(env.scene.sensors, "camera").read()
    layouts = layouts_of(env)
    height, width = depth.shape[1:]
    focal_px = width / 2 / math.tan(math.radians(50))
    column_x = (torch.arange(width) + 0.5 - width / 2) / focal_px  # to the right per metre ahead
    expected = torch.full((NUM_ENVS, width), float("inf"))
    for index in range(NUM_ENVS):
        x, y, yaw = layouts.start[index].tolist()
        camera = torch.tensor([x + 0.15 * math.cos(yaw), y + 0.15 * math.sin(yaw)])
        ahead = torch.tensor([math.cos(yaw), math.sin(yaw)])
        right = torch.tensor([math.sin(yaw), -math.cos(yaw)])
        rays = ahead + column_x[:, None] * right  # of one metre of depth
        for wall_x, gap_y in layouts.walls[index].tolist():
            metres = (wall_x - 0.1 - camera[0]) / rays[:, 0]
            hit = camera + metres[:, None] * rays
            on_wall = (metres > 0) & ((hit[:, 1] - gap_y).abs() > HALF_GAP_M) & (hit[:, 1].abs() < 2.0)
            expected[index] = torch.where(on_wall, torch.minimum(expected[index], metres), expected[index])
    seen = depth[:, height // 2]  # at the camera's height, so that the floor is far away
    # Columns beside an edge may see past it; and the sides of the arena may be nearer than the second wall.
    close = (seen - expected).abs() < 0.02
    of_walls = expected.isfinite()
    assert of_walls.float().mean() > 0.3
    assert (seen[of_walls] < expected[of_walls] + 0.02).float().mean() > 0.97
    assert close[of_walls].float().mean() > 0.6
    assert observations["depth"].shape == (NUM_ENVS, term(env, "depth").encoded.encoder.feature_dim)


def test_driving_is_rewarded_by_progress_and_ends_at_walls_and_goals(navigation):
    env = navigation
    env.reset()
    layouts = layouts_of(env)
    before = layouts.to_go_m(layouts.start[:, :2])
    observations, rewards, terminated, _, _ = env.step(torch.zeros(NUM_ENVS, 2))
    assert not terminated.any()
    distance = observations["policy"][:, 0] * 5
    assert (rewards > 0).all()
    assert (rewards + 0.02 < 0.2).all()  # in a step of 0.2 s at most 0.75 m/s of progress
    assert (before > distance).all()

    rover = env.scene["rover"]
    ids, _ = rover.find_joints(["x", "y", "yaw"], preserve_order=True)
    pose = torch.zeros(NUM_ENVS, 3)
    pose[0, :2] = layouts.goal[0]
    pose[1, 0], pose[1, 1] = layouts.walls[1, 0, 0], layouts.walls[1, 0, 1] + 1.0
    pose[2:, 1] = layouts.start[2:, 1]
    rover.write_joint_position_to_sim_index(position=pose, joint_ids=ids)
    still = torch.tensor([[-1.0, 0.0]]).expand(NUM_ENVS, -1)
    start = layouts.start.clone()
    observations, rewards, terminated, truncated, _ = env.step(still)
    assert terminated.tolist() == [True, True, False, False]
    assert not truncated.any()
    assert rewards[0] > 4
    assert rewards[1] < 0 or rewards[1] < rewards[0] - 4
    assert (layouts.start[:2] != start[:2]).any(1).all()  # new worlds for those two
    assert (layouts.start[2:] == start[2:]).all()
    # The observation is of the new world already.
    depth = DepthCamera(env.scene.sensors, "camera").read()
    features = term(env, "depth").encoded.encoder.encode(depth)
    torch.testing.assert_close(observations["depth"], features, atol=1e-3, rtol=1e-3)


def test_the_rover_turns_left_with_positive_commands(navigation):
    env = navigation
    env.reset()
    ids, _ = env.scene["rover"].find_joints(["yaw"])
    before = env.scene["rover"].data.joint_pos.torch[:, ids[0]].clone()
    env.step(torch.tensor([[-1.0, 1.0]]).expand(NUM_ENVS, -1))
    turned = env.scene["rover"].data.joint_pos.torch[:, ids[0]] - before
    assert ((turned > 0.1) & (turned < 2.5 * 0.2)).all()


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_configurations_that_load(task):
    env_cfg, _ = resolve_task_config(task, None, overrides=["env.scene.num_envs=2"])
    assert env_cfg.scene.num_envs == 2
    env_cfg.validate()
    env_cfg.to_dict()
    agents = [key for key in gymnasium.spec(task).kwargs if key != "env_cfg_entry_point"]
    assert agents
    for agent in agents:
        cfg = load_cfg_from_registry(task, agent)
        assert cfg if isinstance(cfg, dict) else cfg.to_dict()


@pytest.mark.parametrize("task", STOCK)
def test_isaac_labs_own_tasks_get_a_camera_its_features_and_fresh_images(task):
    cfg, _ = resolve_task_config(f"defm_rl/Isaac-{task}-v0", None, overrides=["env.scene.num_envs=2"])
    assert "depth" in cfg.scene.camera.data_types
    features = cfg.observations.depth.features
    assert isinstance(features, ObservationTermCfg)
    assert str(features.func).endswith("DefmFeatures") or features.func is DefmFeatures
    assert list(vars(cfg.events))[-1] == "fresh_images"
    quaternion = torch.tensor(cfg.scene.camera.offset.rot)
    assert quaternion.norm().item() == pytest.approx(1.0)
    flat, _ = resolve_task_config(f"defm_rl/Isaac-{task}-Flat-v0", None, overrides=["env.scene.num_envs=2"])
    assert flat.observations.depth is None
    assert flat.observations.policy.features.params == features.params
    assert {"sb3_cfg_entry_point", "skrl_cfg_entry_point"} <= set(
        gymnasium.spec(f"defm_rl/Isaac-{task}-Flat-v0").kwargs
    )


def test_what_a_real_robot_would_not_know_is_for_the_critic():
    for task, name in (("Velocity-Rough-AnymalD-Depth", "height_scan"), ("Lift-Cube-Franka-Depth", "object_position")):
        cfg, _ = resolve_task_config(f"defm_rl/Isaac-{task}-v0", None, overrides=["env.scene.num_envs=2"])
        assert getattr(cfg.observations.policy, name) is None
        assert getattr(cfg.observations.privileged, name) is not None
