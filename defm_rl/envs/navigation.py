"""Point-goal navigation: a rover with velocity commands and a depth camera among walls, boxes and corridors."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from defm_rl.envs.boxes import BOX_FIELDS, Boxes, add_box
from defm_rl.envs.core import (
    Command,
    Ids,
    MujocoEnv,
    MujocoVectorEnv,
    check_positive,
    configured,
    failure_modes,
    whole_substeps,
)
from defm_rl.envs.layouts import LEVELS, WALL_THICKNESS_M, Grid, Layout, Level, draw_layout
from defm_rl.envs.randomization import Randomization
from defm_rl.envs.rendering import GEOM_GROUPS_SEEN
from defm_rl.envs.robots import check_robot, load_robot
from defm_rl.names import look_up

_OBSTACLE_HEIGHT_M = 1.0


@dataclass(frozen=True)
class NavigationConfig:
    """Everything about the task that can be set.

    Attributes:
        level: "open", "one_wall", "two_walls", "boxes" or "corridors", from easy to hard.
        robot: "rover", the path of an MJCF file, or `robot_descriptions:NAME`. It must have joints "x", "y" (slides)
            and "yaw" (a hinge) as its first ones, all of one body at the origin, whose camera "depth" looks ahead;
            actuators "forward" (m/s) and "turn" (rad/s), which obey the commands; a geom "hull", a cylinder or sphere
            around the body's axis, and a sensor "bumper" that is positive when something touches it.
        observations: Which of "depth" and "state" to give; without "depth" nothing is rendered.
        depth_size: Height and width of the depth image in pixels.
        horizontal_fov_deg: The depth camera's horizontal field of view in degrees.
        camera_height_m: How high above the floor the (level) camera sits, in metres.
        max_depth_m: How far the camera sees, in metres; beyond are holes.
        renderer: "auto", "egl" or "rays".
        threads: Threads for physics and rendering; None for one per CPU.
        max_episode_steps: Control steps before an episode is cut off; None for the level's.
        control_step_s: Seconds between two actions, a whole multiple of the physics step, 0.04 s of the rover.
        max_speed_m_s: Forward speed that action 1 commands (-1 commands standstill).
        max_turn_rate_rad_s: Turn rate that action 1 commands (-1 the same to the right).
        success_radius_m: How near to the goal counts as there, in metres.
        clearance_m: What a layout's path leaves free beside the rover, in metres.
        step_penalty: Taken from the reward at every step.
        collision_penalty: Taken from the reward at a collision, which ends the episode.
        success_reward: Added to the reward at the goal, which ends the episode.
        randomization: What else differs between episodes: a `Randomization`, a name such as "navigation", or a mapping
            from names to ranges. A camera that reaches beyond the hull collides too.
    """

    level: str = "two_walls"
    robot: str = "rover"
    observations: tuple[str, ...] = ("depth", "state")
    depth_size: tuple[int, int] = (48, 96)
    horizontal_fov_deg: float = 100.0
    camera_height_m: float = 0.35
    max_depth_m: float = 20.0
    renderer: str = "auto"
    threads: int | None = None
    max_episode_steps: int | None = None
    control_step_s: float = 0.2
    max_speed_m_s: float = 1.5
    max_turn_rate_rad_s: float = 2.5
    success_radius_m: float = 0.3
    clearance_m: float = 0.1
    step_penalty: float = 0.02
    collision_penalty: float = 1.0
    success_reward: float = 5.0
    randomization: Randomization = Randomization()

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ValueError: An unknown level or randomization, or a number out of range.
        """
        look_up("level", self.level, LEVELS)
        object.__setattr__(self, "randomization", Randomization.of(self.randomization))
        check_positive(self, "camera_height_m", "max_depth_m", "control_step_s", "max_speed_m_s", "success_radius_m")
        if not 0 < self.horizontal_fov_deg < 180:
            raise ValueError(f"horizontal_fov_deg must lie between 0 and 180, got {self.horizontal_fov_deg}")


class NavigationVectorEnv(MujocoVectorEnv):
    """A rover drives to a goal it knows the direction of, past obstacles it only sees. A new world every episode.

    Observation (a dict): "depth", float32 (1, height, width), planar metres, 0 where nothing is hit; "state", float32
    (8,): distance to the goal / 5 m, cosine and sine of its bearing, velocity forwards and to the left (m/s), turn
    rate / 2 (rad/s), the last action.

    Action: (forward, turn), both from -1 to 1. Forward goes from standstill to full speed.

    Reward: metres of geodesic progress, minus a little for every step; a penalty for a collision and a reward for the
    goal, both of which end the episode. At the end info reports `success`, `failure` ("", "collision" or "timeout"),
    `collision`, `spl` (success weighted by path length: geodesic distance over the way driven, Anderson et al. 2018,
    arXiv:1807.06757), `path_length_m`, `geodesic_m`, `pose` (the last one), `steps` and `layout_seed`.

    Args:
        num_envs: Number of rovers, each in a world of its own.
        config: The task; None for the defaults.
        autoreset_mode, layout_seeds, render_mode: See `MujocoVectorEnv`.
        **settings: Fields of `NavigationConfig` to set otherwise, such as `level="boxes"`.

    Raises:
        TypeError: A setting that does not exist.
        ValueError: A value that makes no sense.
    """

    has_map = True

    def __init__(
        self,
        num_envs: int = 1,
        config: NavigationConfig | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        layout_seeds: Iterable[int] = (),
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = configured(NavigationConfig, config, settings)
        self.level = look_up("level", self.config.level, LEVELS)
        self._state_bounds = _state_space()
        max_steps = self.config.max_episode_steps
        max_steps = self.level.max_episode_steps if max_steps is None else max_steps
        model = _build_model(self.config, self.level)
        self._substeps = whole_substeps(self.config.control_step_s, model.opt.timestep)
        super().__init__(
            model,
            num_envs,
            vectors={"state": self._state_bounds},
            cameras={"depth": "depth"},
            action_space=spaces.Box(-1.0, 1.0, (2,), np.float32),
            idle_action=(-1.0, 0.0),
            robot_body=model.body(model.joint("yaw").bodyid[0]).name,
            control_step_s=self.config.control_step_s,
            fields=(*BOX_FIELDS, "site_pos"),
            depth_size=self.config.depth_size,
            observations=self.config.observations,
            renderer=self.config.renderer,
            threads=self.config.threads,
            max_episode_steps=max_steps,
            randomization=self.config.randomization,
            autoreset_mode=autoreset_mode,
            layout_seeds=layout_seeds,
            render_mode=render_mode,
        )
        # The rover's own three coordinates come first; a robot may have more, such as its wheels'.
        self._qpos, self._qvel = self._batch.bind("qpos")[:, :3], self._batch.bind("qvel")[:, :3]
        self._ctrl = self._batch.bind("ctrl")
        self._forward, self._turn = model.actuator("forward").id, model.actuator("turn").id
        bumper = model.sensor("bumper")
        self._bumper = slice(bumper.adr[0], bumper.adr[0] + bumper.dim[0])
        camera = model.camera("depth").id
        self._camera_pos = np.broadcast_to(model.cam_pos[camera], (num_envs, 3))
        if "cam_pos" in self._fields:
            self._camera_pos = self._fields["cam_pos"][:, camera]
        self._goal_site = model.site("goal").id
        self._boxes = Boxes(model, [f"box{k}" for k in range(self.level.num_boxes)], self._fields)

        self._radius_m = float(model.geom("hull").size[0])
        self._grid = Grid(self.level.bounds, self._radius_m + self.config.clearance_m)
        self._layouts: list[Layout | None] = [None] * num_envs
        self._fields_to_goal = np.zeros((num_envs, *self._grid.shape))
        self._goals = np.zeros((num_envs, 2))
        self._to_go_m, self._geodesic_m, self._path_m = np.zeros((3, num_envs))
        self._success, self._collision = np.zeros((2, num_envs), bool)

    @property
    def poses(self) -> NDArray[np.float64]:
        """Where the rovers are now: (num_envs, 3), x and y in metres, yaw in radians."""
        return self._qpos.copy()

    def layout(self, index: int) -> Layout:
        """The world of environment `index` now, for maps and planners.

        Raises:
            RuntimeError: Before the first reset.
        """
        layout = self._layouts[index]
        if layout is None:
            raise RuntimeError("there is no layout before the first reset()")
        return layout

    def geodesic_m(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Geodesic distance to the goals in metres.

        Args:
            points: (num_envs, ..., 2) in metres.

        Returns:
            (num_envs, ...).
        """
        return self._grid.lookup(self._fields_to_goal, np.arange(self.num_envs), points)

    def _begin(self, ids: Ids, seeds: Sequence[int]) -> None:
        for i, seed in zip(ids.tolist(), seeds, strict=True):
            layout = draw_layout(self.level, self._grid, seed)
            self._layouts[i] = layout
            self._boxes.place(i, _standing(layout.boxes))
            self._qpos[i] = layout.start
            self._goals[i] = self._fields["site_pos"][i, self._goal_site, :2] = layout.goal
            self._fields_to_goal[i] = layout.distances
        self._to_go_m[ids] = self._geodesic_m[ids] = self._distance_to_go(ids)
        self._path_m[ids] = 0
        self._success[ids] = self._collision[ids] = False

    def _advance(self, ids: Ids, actions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        config = self.config
        before = self._qpos[ids, :2]
        self._ctrl[ids, self._forward] = (actions[:, 0] + 1) / 2 * config.max_speed_m_s
        self._ctrl[ids, self._turn] = actions[:, 1] * config.max_turn_rate_rad_s
        record = self._batch.rollout(self._substeps, record=("qpos", "sensordata"), ids=ids)
        way = np.concatenate([before[:, None], record["qpos"][..., :2]], axis=1)
        self._path_m[ids] += np.linalg.norm(np.diff(way, axis=1), axis=-1).sum(axis=1)

        position = self._qpos[ids, :2]
        collision = (record["sensordata"][..., self._bumper] > 0).any(axis=(1, 2)) | self._camera_collides(ids)
        success = ~collision & (np.linalg.norm(self._goals[ids] - position, axis=1) < config.success_radius_m)
        to_go_m = self._distance_to_go(ids)
        rewards = self._to_go_m[ids] - to_go_m - config.step_penalty
        rewards += config.success_reward * success - config.collision_penalty * collision
        self._to_go_m[ids], self._success[ids], self._collision[ids] = to_go_m, success, collision
        return rewards, success | collision

    def _camera_collides(self, ids: Ids) -> NDArray[np.bool_]:
        """Whether something stands between a rover's axis and a camera that reaches beyond its hull."""
        collides = np.zeros(len(ids), bool)
        reach_m = np.linalg.norm(self._camera_pos[ids, :2], axis=1)
        beyond = np.flatnonzero(reach_m > self._radius_m)
        if not len(beyond):
            return collides
        x, y, height = self._camera_pos[ids[beyond]].T
        pose, yaw = self._qpos[ids[beyond]], self._qpos[ids[beyond], 2]
        axis = np.column_stack([pose[:, :2], height])
        ahead = np.column_stack([x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw), 0 * yaw])
        ahead /= reach_m[beyond, None]
        seen = np.array(GEOM_GROUPS_SEEN, np.uint8)
        distance_m, _ = self._batch.ray(axis[:, None], ahead[:, None], geomgroup=seen, ids=ids[beyond])
        collides[beyond] = (distance_m[:, 0] >= 0) & (distance_m[:, 0] < reach_m[beyond])
        return collides

    @property
    def entries(self) -> Mapping[str, tuple[str, ...]]:
        """Of the state."""
        return {
            "state": (
                *("distance to the goal / 5 m", "cosine of the goal's bearing", "sine of the goal's bearing"),
                *("velocity forwards, m/s", "velocity to the left, m/s", "turn rate / 2 rad/s"),
                *("last action, forward", "last action, turn"),
            )
        }

    @property
    def commands(self) -> tuple[Command, ...]:
        """Forward speed and turn rate."""
        half_m_s = self.config.max_speed_m_s / 2
        return (
            Command("forward speed", "m/s", half_m_s, half_m_s),
            Command("turn rate", "rad/s", self.config.max_turn_rate_rad_s),
        )

    def _distance_to_go(self, ids: Ids) -> NDArray[np.float64]:
        return self._grid.lookup(self._fields_to_goal, ids, self._qpos[ids, :2])

    def _vector(self, name: str, ids: Ids) -> NDArray[np.float32]:
        position, yaw = self._qpos[ids, :2], self._qpos[ids, 2]
        velocity, turn_rate = self._qvel[ids, :2], self._qvel[ids, 2]
        to_goal = self._goals[ids] - position
        bearing = np.arctan2(to_goal[:, 1], to_goal[:, 0]) - yaw
        cos, sin = np.cos(yaw), np.sin(yaw)
        state = np.empty((len(ids), 8), np.float32)
        state[:, 0] = np.hypot(to_goal[:, 0], to_goal[:, 1]) / 5
        state[:, 1] = np.cos(bearing)
        state[:, 2] = np.sin(bearing)
        state[:, 3] = velocity[:, 0] * cos + velocity[:, 1] * sin
        state[:, 4] = velocity[:, 1] * cos - velocity[:, 0] * sin
        state[:, 5] = turn_rate / 2
        state[:, 6:] = self._last_actions[ids]
        return np.clip(state, self._state_bounds.low, self._state_bounds.high, out=state)

    def _results(self, ids: Ids) -> dict[str, NDArray[Any]]:
        geodesic, path, success = self._geodesic_m[ids], self._path_m[ids], self._success[ids]
        return {
            "success": success,
            "failure": failure_modes(success, {"collision": self._collision[ids]}),
            "collision": self._collision[ids],
            "spl": success * geodesic / np.maximum(geodesic, path),
            "path_length_m": path,
            "geodesic_m": geodesic,
            "pose": self._qpos[ids],
        }


class NavigationEnv(MujocoEnv):
    """`NavigationVectorEnv` with one rover, behind gymnasium's single interface.

    Args:
        config, layout_seeds, render_mode, **settings: See `NavigationVectorEnv`.
    """

    vector_env = NavigationVectorEnv


def oracle_action(env: NavigationVectorEnv) -> NDArray[np.float32]:
    """What a driver would do who knew the map: turn to where the geodesic distance falls fastest.

    Returns:
        (num_envs, 2) actions.
    """
    lookahead_m, speed, turn_time_s = 0.4, 0.7, 0.3
    poses = env.poses
    to_goal = np.stack([env.layout(i).goal for i in range(env.num_envs)]) - poses[:, :2]
    directions = np.linspace(-np.pi, np.pi, 64, endpoint=False)
    ahead = poses[:, None, :2] + lookahead_m * np.stack([np.cos(directions), np.sin(directions)], axis=-1)
    downhill = directions[env.geodesic_m(ahead).argmin(axis=1)]
    at_goal = np.hypot(*to_goal.T) < lookahead_m
    heading = np.where(at_goal, np.arctan2(to_goal[:, 1], to_goal[:, 0]), downhill)
    error = (heading - poses[:, 2] + np.pi) % (2 * np.pi) - np.pi
    forward = 2 * speed * np.clip(np.cos(error), 0, 1) ** 4 - 1
    turn = error / (turn_time_s * env.config.max_turn_rate_rad_s)
    return np.column_stack([forward, np.clip(turn, -1, 1)]).astype(np.float32)


def _state_space() -> spaces.Box:
    high = np.array([4, 1, 1, 4, 4, 4, 1, 1], np.float32)  # far beyond what the rover's motion and the arenas allow
    low = -high
    low[0] = 0
    return spaces.Box(low, high, dtype=np.float32)


def _build_model(config: NavigationConfig, level: Level) -> Any:
    """The robot in an arena, with as many boxes as the level has, to be placed at every reset."""
    spec = load_robot(config.robot)
    _check_rover(spec, config.robot)
    for geom in spec.geoms:
        geom.group = max(geom.group, GEOM_GROUPS_SEEN.index(0))
    spec.stat.extent, spec.stat.center = 1, [3, 0, 0]
    spec.visual.map.znear, spec.visual.map.zfar = 0.02, config.max_depth_m
    spec.visual.headlight.ambient = [0.5, 0.5, 0.5]
    spec.visual.quality.numquads = 1  # boxes of two triangles a side: the default costs twice the drawing time
    height, width = config.depth_size
    camera = spec.camera("depth")
    camera.pos[2] = config.camera_height_m
    camera.fovy = np.degrees(2 * np.arctan(np.tan(np.radians(config.horizontal_fov_deg) / 2) * height / width))
    # The third size is the grid a plane is drawn with: coarse is five times faster than fine.
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    spec.worldbody.add_geom(
        name="floor", type=plane, size=[20, 20, 20], rgba=[0.75, 0.75, 0.72, 1], group=0, contype=0, conaffinity=0
    )
    x_min, y_min, x_max, y_max = level.bounds
    center, half = np.array([(x_min + x_max) / 2, (y_min + y_max) / 2]), np.array([x_max - x_min, y_max - y_min]) / 2
    thickness = WALL_THICKNESS_M
    walls = [
        (center[0], y, half[0] + thickness, thickness / 2) for y in (y_min - thickness / 2, y_max + thickness / 2)
    ] + [(x, center[1], thickness / 2, half[1] + thickness) for x in (x_min - thickness / 2, x_max + thickness / 2)]
    half_height = _OBSTACLE_HEIGHT_M / 2
    for k, (x, y, half_x, half_y) in enumerate(walls):
        add_box(spec, f"wall{k}", (x, y, half_height), (half_x, half_y, half_height), (0.6, 0.62, 0.66, 1))
    for k in range(level.num_boxes):
        add_box(spec, f"box{k}", (0, 0, half_height), (0.1, 0.1, half_height), (0.35, 0.45, 0.6, 1))
    spec.worldbody.add_site(
        name="goal",
        type=mujoco.mjtGeom.mjGEOM_CYLINDER,
        size=[config.success_radius_m, 0.005, 0],
        rgba=[0.2, 0.7, 0.3, 1],
    )
    above_m = 1.4 * max(half[1], half[0] * 3 / 4) / np.tan(np.radians(45) / 2)
    spec.worldbody.add_camera(name="top", pos=[*center, above_m], fovy=45)
    return spec.compile()


def _check_rover(spec: Any, robot: str) -> None:
    joints = ("x", "y", "yaw")
    check_robot(
        spec,
        robot,
        joints=joints,
        geoms=("hull",),
        cameras=("depth",),
        actuators=("forward", "turn"),
        sensors=("bumper",),
    )
    if tuple(joint.name for joint in spec.joints[:3]) != joints:
        raise ValueError(f"robot {robot!r}: joints x, y and yaw must come first, in this order")
    body = spec.joint("yaw").parent
    if not body.name or body.pos.any() or spec.camera("depth").parent != body:
        raise ValueError(
            f"robot {robot!r}: the body that joint 'yaw' turns must have a name, stand at the origin and carry "
            "camera 'depth'"
        )
    if spec.geom("hull").type not in (mujoco.mjtGeom.mjGEOM_CYLINDER, mujoco.mjtGeom.mjGEOM_SPHERE):
        raise ValueError(f"robot {robot!r}: geom 'hull' must be a cylinder or a sphere, which looks the same all round")


def _standing(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """A layout's boxes as `Boxes` places them: on the floor, one as high as the other."""
    half_height = np.full(len(boxes), _OBSTACLE_HEIGHT_M / 2)
    return np.column_stack([boxes[:, :2], half_height, boxes[:, 2:4], half_height, boxes[:, 4]])
