"""Grasping: an arm with a two-finger gripper and a depth camera picks objects of random shape from a table."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from defm_rl.envs.core import (
    DRAWN_LAYOUTS,
    Command,
    Ids,
    MujocoEnv,
    MujocoVectorEnv,
    check_positive,
    configured,
    failure_modes,
    whole_substeps,
)
from defm_rl.envs.objects import AREA_M, LEVELS, SHAPES, Object, draw_scene
from defm_rl.envs.randomization import Randomization
from defm_rl.envs.robots import check_robot, load_robot
from defm_rl.names import look_up

Floats = NDArray[np.float64]

_ARM = "arm/"  # what the names of the arm's parts begin with in the scene
_TIMESTEP_S = 0.01
_UPDATES = 2  # times a control step that joint targets are computed anew
_DAMPING = 0.05  # of the least squares; the arm slows down near singular poses rather than swing
_POSTURE_GAIN = 0.1  # share of the way back to the home posture that the redundant joint takes at every update
_FINGER_GAIN = 4  # fingers move at full speed from a quarter of full action on
_MAX_JOINT_SPEED_RAD_S = 2.175  # the Panda's slower joints
# Bounds of the gripper's pose: x, y, z (m) of the point between the finger tips and the turn about the vertical (rad).
# At its lowest the finger tips are on the table; half a turn is enough, as the gripper is symmetrical.
_WORKSPACE = ((0.3, -0.3, 0.012, -1.75), (0.7, 0.3, 0.45, 1.75))
_STARTS = ((0.45, -0.1, 0.17, -0.3), (0.55, 0.1, 0.23, 0.3))
_TABLE_M = ((-0.2, -0.6), (0.9, 0.6))
_TABLE_HEIGHT_M = 0.7
_LYING_M = 0.03  # an object that is lower than this above where it lay has not been lifted
_COLORS = ((0.85, 0.45, 0.1, 1), (0.2, 0.5, 0.75, 1), (0.35, 0.65, 0.3, 1))
_GEOM_TYPES = {
    "box": mujoco.mjtGeom.mjGEOM_BOX,
    "hammer": mujoco.mjtGeom.mjGEOM_BOX,
    "cylinder": mujoco.mjtGeom.mjGEOM_CYLINDER,
    "ellipsoid": mujoco.mjtGeom.mjGEOM_ELLIPSOID,
}
_ORIGIN_M, _SCALE_M = np.array([0.5, 0.0, 0.2]), 0.1  # of positions in observations
_OBJECT_SCALES = np.repeat([1 / _SCALE_M, 1, 1, 0.2, 20, 1, 10, 1, 1, 1 / _SCALE_M], [3, 6, 3, 3, 3, 4, 1, 1, 2, 1])


@dataclass(frozen=True)
class ManipulationConfig:
    """Everything about the task that can be set.

    Attributes:
        level: "cube", "shapes" or "clutter", from easy to hard.
        robot: "arm", the path of an MJCF file, or `robot_descriptions:NAME`. It must have one root body; a site "pinch"
            between the finger tips, whose z axis points out of the gripper and whose y axis is the one along which the
            fingers close; geoms "left_pad" and "right_pad", the fingers' insides; a camera "wrist"; an actuator
            "gripper" whose control range goes from shut to open in metres of each finger's way; other actuators that
            are position servos of one joint each, at least six; and a keyframe "home" in which the arm reaches the
            middle of the table's objects, (0.5, 0, 0.2) m from its base.
        observations: Which of "depth", "wrist_depth", "state" and "privileged" to give; without the first two nothing
            is rendered.
        depth_size: Height and width of the depth images in pixels.
        camera_position_m: Where the fixed camera sits, from the arm's base at the height of the table.
        camera_target_m: The point it looks at.
        vertical_fov_deg: The fixed camera's vertical field of view in degrees.
        max_depth_m: How far the cameras see, in metres; beyond are holes.
        renderer: "auto", "egl" or "rays".
        threads: Threads for physics and rendering; None for one per CPU.
        max_episode_steps: Control steps before an episode is cut off; None for the level's.
        control_step_s: Seconds between two actions, a whole multiple of 0.02 s.
        ready_share: Share of episodes that begin with the open gripper around an object or just above it. A curriculum:
            teachers learn to close it before they have learned to get there. Only layouts that are drawn begin so, see
            `defm_rl.envs.core.DRAWN_LAYOUTS`: those that are named, as evaluations do, never.
        max_step_m: How far action 1 moves the gripper in one step, along each axis.
        max_turn_rad: How far action 1 turns the gripper in one step.
        finger_speed_m_s: How fast each finger moves.
        lift_height_m: How high an object must be lifted.
        hold_s: How long it must stay up there.
        reach_reward: Reward for bringing the gripper from far away to an object's centre.
        align_reward: Reward for turning the gripper so that an object is 2 cm narrower between the fingers.
        grasp_reward: Reward for having an object between the fingers and both touch it.
        holding_reward: Reward for every step in which an object is between the fingers and both touch it.
        lift_reward: Reward for lifting an object to the height.
        step_penalty: Taken from the reward at every step.
        lost_penalty: Taken from the reward when an object leaves the gripper's reach, which ends the episode.
        success_reward: Added to the reward at success, which ends the episode.
        randomization: What else differs between episodes: a `Randomization`, a name such as "grasping", or a mapping
            from names to ranges.
    """

    level: str = "cube"
    robot: str = "arm"
    observations: tuple[str, ...] = ("depth", "state")
    depth_size: tuple[int, int] = (64, 64)
    camera_position_m: tuple[float, float, float] = (0.95, 0.0, 0.35)
    camera_target_m: tuple[float, float, float] = (0.5, 0.0, 0.04)
    vertical_fov_deg: float = 40.0
    max_depth_m: float = 2.0
    renderer: str = "auto"
    threads: int | None = None
    max_episode_steps: int | None = None
    control_step_s: float = 0.1
    ready_share: float = 0.0
    max_step_m: float = 0.04
    max_turn_rad: float = 0.25
    finger_speed_m_s: float = 0.05
    lift_height_m: float = 0.1
    hold_s: float = 0.5
    reach_reward: float = 1.0
    align_reward: float = 0.25
    grasp_reward: float = 1.0
    holding_reward: float = 0.1
    lift_reward: float = 2.0
    step_penalty: float = 0.02
    lost_penalty: float = 1.0
    success_reward: float = 5.0
    randomization: Randomization = Randomization()

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ValueError: An unknown level or randomization, or a number out of range.
        """
        look_up("level", self.level, LEVELS)
        object.__setattr__(self, "randomization", Randomization.of(self.randomization))
        check_positive(
            self,
            *("max_depth_m", "control_step_s", "max_step_m", "max_turn_rad"),
            *("finger_speed_m_s", "lift_height_m", "hold_s"),
        )
        if not 0 <= self.ready_share <= 1:
            raise ValueError(f"ready_share must lie between 0 and 1, got {self.ready_share}")
        if np.allclose(self.camera_position_m[:2], self.camera_target_m[:2]):
            raise ValueError(
                "camera_position_m and camera_target_m must be apart, seen from above, or the image has no upper side; "
                f"got {self.camera_position_m} and {self.camera_target_m}"
            )
        if not 0 < self.vertical_fov_deg < 180:
            raise ValueError(f"vertical_fov_deg must lie between 0 and 180, got {self.vertical_fov_deg}")


class ManipulationVectorEnv(MujocoVectorEnv):
    """An arm grasps an object on a table and lifts it 0.1 m for half a second. New objects every episode.

    Observations (a dict): "depth" and "wrist_depth", float32 (1, height, width), planar metres, 0 where nothing is hit,
    from a fixed camera across the table and from one on the hand.

    "state", float32 (19 + 2 j,), what an arm of j joints measures: joint positions from those at home (j, rad) and
    velocities (j, rad/s), how far the gripper is open (0 to 1), the point between the finger tips from (0.5, 0, 0.2) m
    (3, in 0.1 m), the gripper's x and y axes (6), how far it is from the pose commanded (4: x, y, z and turn, each over
    what one step can command), the last action (5).

    "privileged", float32 (4 + 27 k,), what only a teacher knows: for how long an object has been up (share of the time
    needed), the arm's `mass_scale`, `motor_strength_scale` and `action_latency_s`, then for each of k objects, the
    nearest first and all in the gripper's frame: position (3, in 0.1 m), its x and y axes (6), velocity (3, m/s),
    angular velocity (3, in 5 rad/s), half extents (3, in 0.05 m), one-hot shape (4, as `SHAPES`), mass (in 0.1 kg),
    sliding friction, which fingers touch it (2), lifted height (in 0.1 m).

    Action (5): movement of the gripper's commanded pose along x, y, z (the base's axes) and about the vertical, and of
    the fingers (positive opens), all from -1 to 1. The gripper points down, and its command never runs farther ahead of
    it than one step. Damped least squares turn the command into joint targets, which servos follow, so that exploration
    is straight in the space in which the task is simple while joint limits, torques and lags remain those of an arm.
    The fingers move at full speed from a quarter of full action on, so that closing them does not take a rare run of
    large actions.

    Reward: the gain in a potential since the last step (nearness to an object, along a funnel that leads down to it,
    how narrow it is between the fingers, closing them there, both touching it, its height), minus a little for every
    step; a penalty for an object that leaves the gripper's reach and a reward for success, both of which end the
    episode. In clutter any object counts. At the end info reports `success`, `failure` ("", "drop": an object was
    lifted and fell again, "lost": one left the gripper's reach, "timeout"), `lift_height_m` (the highest object's, at
    the end), `time_to_success_s` (NaN without success), `steps` and `layout_seed`.

    Args:
        num_envs: Number of arms, each with a table of its own.
        config: The task; None for the defaults.
        autoreset_mode, layout_seeds, render_mode: See `MujocoVectorEnv`.
        **settings: Fields of `ManipulationConfig` to set otherwise, such as `level="shapes"`.

    Raises:
        TypeError: A setting that does not exist.
        ValueError: A value that makes no sense.
    """

    metadata = {**MujocoVectorEnv.metadata, "render_fps": 10}

    def __init__(
        self,
        num_envs: int = 1,
        config: ManipulationConfig | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        layout_seeds: Iterable[int] = (),
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = configured(ManipulationConfig, config, settings)
        self.level = look_up("level", self.config.level, LEVELS)
        max_steps = self.config.max_episode_steps
        max_steps = self.level.max_episode_steps if max_steps is None else max_steps
        model = _build_model(self.config, self.level.num_objects)
        self._substeps = whole_substeps(self.config.control_step_s, _UPDATES * _TIMESTEP_S)
        self._find(model)
        self._spaces = _vector_spaces(len(self._arm_qpos), self.level.num_objects)
        super().__init__(
            model,
            num_envs,
            vectors=self._spaces,
            cameras={"depth": "depth", "wrist_depth": _ARM + "wrist"},
            action_space=spaces.Box(-1.0, 1.0, (5,), np.float32),
            robot_body=self._robot_body,
            control_step_s=self.config.control_step_s,
            fields=(
                *("geom_type", "geom_size", "geom_pos", "geom_contype", "geom_conaffinity", "geom_friction"),
                *("geom_rbound", "geom_aabb", "bvh_aabb", "body_mass", "body_inertia"),
            ),
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
        bind = self._batch.bind
        self._qpos, self._qvel, self._ctrl, self._sensors = map(bind, ("qpos", "qvel", "ctrl", "sensordata"))
        self._site_pos, self._site_mat, self._body_mat = map(bind, ("site_xpos", "site_xmat", "xmat"))
        self._actuator_length = bind("actuator_length")

        objects = self.level.num_objects
        self._objects: list[list[Object]] = [[] for _ in range(num_envs)]
        self._constants = np.zeros((num_envs, objects, 9))  # of the objects, as a teacher is told them
        self._half_extents_m = np.zeros((num_envs, objects, 3))
        self._thickness_m = np.zeros((num_envs, objects))  # of an object's thinnest part
        self._round = np.zeros((num_envs, objects), bool)
        self._rest_height_m = np.zeros((num_envs, objects))
        self._targets = np.zeros((num_envs, 4))  # poses that the grippers are on their way to
        self._reach = np.array([*[self.config.max_step_m] * 3, self.config.max_turn_rad])
        self._potential, self._lift_m, self._highest_m, self._held_s = np.zeros((4, num_envs))
        self._success, self._lost = np.zeros((2, num_envs), bool)

    def _find(self, model: Any) -> None:
        """Look up where things stand in the model's arrays."""
        self._robot_body = model.body(1).name  # the scene begins with the arm
        self._pinch = model.site(_ARM + "pinch").id
        self._hand = model.site_bodyid[self._pinch]
        self._gripper = model.actuator(_ARM + "gripper").id
        self._shut, opened = model.actuator_ctrlrange[self._gripper]
        self._stroke = opened - self._shut
        self._arm = np.flatnonzero(np.arange(model.nu) != self._gripper)
        joints = model.actuator_trnid[self._arm, 0]
        self._arm_qpos, self._arm_dofs = model.jnt_qposadr[joints], model.jnt_dofadr[joints]
        self._home, self._home_ctrl = model.key(_ARM + "home").qpos, model.key(_ARM + "home").ctrl
        bodies = [model.body(f"object{k}") for k in range(self.level.num_objects)]
        self._bodies = np.array([body.id for body in bodies])
        self._geoms = model.body_geomadr[self._bodies][:, None] + np.arange(2)
        self._object_qpos = np.array([model.jnt_qposadr[body.jntadr[0]] for body in bodies])[:, None] + np.arange(7)
        self._object_dofs = model.body_dofadr[self._bodies][:, None] + np.arange(6)
        self._volumes = model.body_bvhadr[self._bodies][:, None] + np.arange(3)
        self._volume_parts = model.bvh_nodeid[self._volumes] - self._geoms[:, :1]  # negative where one holds both

    def objects(self, index: int) -> list[Object]:
        """What lay on the table of environment `index` when its episode began.

        Raises:
            RuntimeError: Before the first reset.
        """
        if not self._objects[index]:
            raise RuntimeError("there are no objects before the first reset()")
        return self._objects[index]

    @property
    def object_poses(self) -> Floats:
        """Where the objects are now: (num_envs, k, 7), position in metres and quaternion (w, x, y, z)."""
        return self._qpos[:, self._object_qpos]

    @property
    def gripper_poses(self) -> Floats:
        """Where the grippers are now: (num_envs, 4), the point between the finger tips (m) and the yaw (rad)."""
        return self._gripper_poses(np.arange(self.num_envs))

    @property
    def commanded_poses(self) -> Floats:
        """Where the grippers are on their way to: (num_envs, 4), as `gripper_poses`."""
        return self._targets.copy()

    # Beginning

    def _begin(self, ids: Ids, seeds: Sequence[int]) -> None:
        self._qpos[ids] = self._home
        self._ctrl[ids] = self._home_ctrl
        starts = np.empty((len(ids), 4))
        for row, (i, seed) in enumerate(zip(ids.tolist(), seeds, strict=True)):
            self._objects[i] = draw_scene(self.level, seed)
            for k, thing in enumerate(self._objects[i]):
                self._place_object(i, k, thing)
            ready_share = self.config.ready_share if seed >= DRAWN_LAYOUTS[0] else 0.0
            starts[row] = self._draw_start(np.random.default_rng([seed, 2]), self._objects[i], ready_share)
        self._batch.set_const(ids)
        self._pose_arm(ids, starts)
        self._highest_m[ids] = self._held_s[ids] = 0
        self._success[ids] = self._lost[ids] = False
        self._potential[ids], self._lift_m[ids], _ = self._progress(ids)

    def _draw_start(self, rng: np.random.Generator, objects: list[Object], ready_share: float) -> Floats:
        """Where a gripper begins: somewhere above the middle, or ready to grasp the first object."""
        start = rng.uniform(*_STARTS)
        if rng.random() < ready_share:
            thing = objects[0]
            start[:2] = thing.position[:2] + rng.uniform(-0.004, 0.004, 2)
            start[2] = thing.position[2] + rng.uniform(0.0, 0.08)
            start[3] = (thing.yaw + np.pi / 2) % np.pi - np.pi / 2
        return start

    def _place_object(self, i: int, k: int, thing: Object) -> None:
        fields, geoms = self._fields, self._geoms[k]
        used = thing.half_sizes[:, 0] > 0
        # A part that is not there shrinks to a grain inside the other one, where nothing sees or touches it.
        half_sizes = np.where(used[:, None], thing.half_sizes, 0.001)
        offsets = np.where(used[:, None], thing.offsets, thing.offsets[0])
        fields["geom_type"][i, geoms] = _GEOM_TYPES[thing.shape]
        fields["geom_size"][i, geoms] = half_sizes[:, [0, 2, 2]] if thing.shape == "cylinder" else half_sizes
        fields["geom_pos"][i, geoms] = offsets
        fields["geom_contype"][i, geoms] = fields["geom_conaffinity"][i, geoms] = used
        fields["geom_friction"][i, geoms, 0] *= thing.friction
        # What the collision and ray tests ask first must follow the sizes: bounding spheres and boxes (centre, half).
        fields["geom_rbound"][i, geoms] = np.linalg.norm(half_sizes, axis=1)
        fields["geom_aabb"][i, geoms, 3:] = half_sizes
        low, high = (offsets - half_sizes).min(axis=0), (offsets + half_sizes).max(axis=0)
        for volume, part in zip(self._volumes[k], self._volume_parts[k], strict=True):
            box = ((low + high) / 2, (high - low) / 2) if part < 0 else (offsets[part], half_sizes[part])
            fields["bvh_aabb"][i, volume] = np.concatenate(box)
        fields["body_mass"][i, self._bodies[k]] = thing.mass_kg
        fields["body_inertia"][i, self._bodies[k]] = thing.inertia

        self._qpos[i, self._object_qpos[k]] = *thing.position, np.cos(thing.yaw / 2), 0, 0, np.sin(thing.yaw / 2)
        self._half_extents_m[i, k] = thing.half_extents
        self._thickness_m[i, k] = 2 * half_sizes[used].min()
        self._round[i, k] = thing.shape in ("cylinder", "ellipsoid")
        self._rest_height_m[i, k] = thing.position[2]
        shape, friction = np.array(SHAPES) == thing.shape, fields["geom_friction"][i, geoms[0], 0]
        self._constants[i, k] = *thing.half_extents, *shape, thing.mass_kg, friction

    def _pose_arm(self, ids: Ids, poses: Floats) -> None:
        """Put arms at rest with their grippers where asked, as far as they reach."""
        for _ in range(6):
            self._batch.forward(ids)
            self._qpos[np.ix_(ids, self._arm_qpos)] += self._joint_movement(ids, poses)
        self._batch.forward(ids)
        self._targets[ids] = self._gripper_poses(ids)
        self._ctrl[np.ix_(ids, self._arm)] = self._qpos[np.ix_(ids, self._arm_qpos)]

    # Acting

    def _advance(self, ids: Ids, actions: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        config = self.config
        self._move(ids, actions)
        potential, lift_m, held = self._progress(ids)
        up = lift_m >= config.lift_height_m
        self._held_s[ids] = np.where(up, self._held_s[ids] + config.control_step_s, 0)
        success = self._held_s[ids] > config.hold_s - 1e-6
        lost = ~success & self._out_of_reach(ids)
        rewards = potential - self._potential[ids] - config.step_penalty
        # Without it, opening the gripper and closing it again comes to nearly the same as holding on.
        rewards += config.holding_reward * held.any(axis=1)
        rewards += config.success_reward * success - config.lost_penalty * lost
        self._potential[ids], self._lift_m[ids] = potential, lift_m
        self._highest_m[ids] = np.maximum(self._highest_m[ids], lift_m)
        self._success[ids], self._lost[ids] = success, lost
        return rewards, success | lost

    def _move(self, ids: Ids, actions: Floats) -> None:
        """Let arms and grippers follow the actions for one control step."""
        config = self.config
        here, reach = self._gripper_poses(ids), self._reach
        targets = np.clip(self._targets[ids] + actions[:, :4] * reach, here - reach, here + reach)
        self._targets[ids] = targets = np.clip(targets, *_WORKSPACE)
        way_m = config.finger_speed_m_s * config.control_step_s * np.clip(_FINGER_GAIN * actions[:, 4], -1, 1)
        self._ctrl[ids, self._gripper] = np.clip(
            self._actuator_length[ids, self._gripper] + way_m, self._shut, self._shut + self._stroke
        )
        arm_qpos = np.ix_(ids, self._arm_qpos)
        for _ in range(_UPDATES):
            self._ctrl[np.ix_(ids, self._arm)] = self._qpos[arm_qpos] + self._joint_movement(ids, targets)
            # Positions and velocities are wanted at the state reached, not at the one before it.
            self._batch.step(ids, self._substeps, mujoco.mjtStage.mjSTAGE_VEL.value)

    def _joint_movement(self, ids: Ids, poses: Floats) -> Floats:
        """Joint movements (n, joints) that bring grippers nearer to poses (n, 4): one step of damped least squares.

        With J the gripper's Jacobian and e the error of its pose, dq = p + J' (J J' + d^2)^-1 (e - J p), where p leads
        back to the home posture (Nakamura and Hanafusa 1986 for the damping).
        """
        position, rotation = self._site_pos[ids, self._pinch], self._site_mat[ids, self._pinch].reshape(-1, 3, 3)
        cos, sin, zero = np.cos(poses[:, 3]), np.sin(poses[:, 3]), np.zeros(len(ids))
        # The gripper points down: its axes as columns.
        wanted = np.stack([cos, sin, zero, sin, -cos, zero, zero, zero, zero - 1], axis=1).reshape(-1, 3, 3)
        wanted = wanted.transpose(0, 2, 1)
        turn = np.cross(rotation, wanted, axis=1).sum(axis=2) / 2
        error = np.concatenate([poses[:, :3] - position, turn], axis=1)
        linear, angular = self._batch.jac(self._hand, position, ids)
        jacobian = np.concatenate([linear, angular], axis=1)[:, :, self._arm_dofs]
        posture = _POSTURE_GAIN * (self._home[self._arm_qpos] - self._qpos[np.ix_(ids, self._arm_qpos)])
        transposed = jacobian.transpose(0, 2, 1)
        damped = jacobian @ transposed + _DAMPING**2 * np.eye(6)
        movement = posture + (
            transposed @ np.linalg.solve(damped, error[:, :, None] - jacobian @ posture[:, :, None])
        ).squeeze(2)
        fastest = _MAX_JOINT_SPEED_RAD_S * self.config.control_step_s
        return np.clip(movement, -fastest, fastest)

    def _gripper_poses(self, ids: Ids) -> Floats:
        """Poses of the grippers, (n, 4), as in the workspace."""
        rotation = self._site_mat[ids, self._pinch]
        return np.column_stack([self._site_pos[ids, self._pinch], np.arctan2(rotation[:, 3], rotation[:, 0])])

    def _opening(self, ids: Ids) -> Floats:
        """How far grippers are open, from 0 to 1: (n,)."""
        opening: Floats = (self._actuator_length[ids, self._gripper] - self._shut) / self._stroke
        return opening

    def _progress(self, ids: Ids) -> tuple[Floats, Floats, NDArray[np.bool_]]:
        """The potential that rewards come from and the highest object's height, each (n,), and what is held (n, k)."""
        config = self.config
        positions = self._qpos[ids][:, self._object_qpos[:, :3]]
        offset = self._site_pos[ids, None, self._pinch] - positions
        aside = np.linalg.norm(offset[..., :2], axis=2)
        # The way leads down a funnel: who comes from the side, at the object's height, pushes it away.
        above = np.clip(2 * (aside - 0.01), 0, 0.08)
        distance = np.hypot(aside, offset[..., 2] - above)
        held = self._holds(ids)
        lift_m = positions[:, :, 2] - self._rest_height_m[ids]
        potential = config.reach_reward * (1 - np.tanh(5 * distance))
        potential -= config.align_reward * self._excess_width_m(ids) / 0.02
        potential += config.grasp_reward * held
        potential += config.lift_reward * np.clip(lift_m / config.lift_height_m, 0, 1)
        return potential.max(axis=1), lift_m.max(axis=1), held

    def _excess_width_m(self, ids: Ids) -> Floats:
        """How much wider objects are along the line on which the fingers close than they need be: (n, k)."""
        closing = self._site_mat[ids, self._pinch].reshape(-1, 3, 3)[:, None, None, :, 1]
        extents = np.abs(closing @ self._rotations(ids)).squeeze(2) * self._half_extents_m[ids]
        half = np.where(self._round[ids], np.linalg.norm(extents, axis=2), extents.sum(axis=2))
        narrowest: Floats = self._half_extents_m[ids, :, :2].min(axis=2)
        return 2 * np.maximum(half - narrowest, 0)

    def _rotations(self, ids: Ids) -> Floats:
        """From the objects' axes to the base's: (n, k, 3, 3)."""
        return self._body_mat[ids][:, self._bodies].reshape(len(ids), -1, 3, 3)

    def _holds(self, ids: Ids) -> NDArray[np.bool_]:
        """Which objects are between the fingers, and both touch them: not what they press from above: (n, k)."""
        reach = (np.abs(self._rotations(ids)) @ self._half_extents_m[ids, :, :, None]).squeeze(3)
        offset = self._site_pos[ids, None, self._pinch] - self._qpos[ids][:, self._object_qpos[:, :3]]
        around = (np.abs(offset) < reach).all(axis=2)
        # Fingers that are shut hold nothing, though they may have tilted what they press until it is around them.
        apart = 2 * self._stroke * self._opening(ids)[:, None] > self._thickness_m[ids] / 2
        held: NDArray[np.bool_] = around & apart & self._touches(ids).all(axis=2)
        return held

    def _touches(self, ids: Ids) -> NDArray[np.bool_]:
        """Which objects touch which finger: (n, k, 2)."""
        touches: NDArray[np.bool_] = self._sensors[ids].reshape(len(ids), -1, 2) > 0
        return touches

    def _out_of_reach(self, ids: Ids) -> NDArray[np.bool_]:
        """Where an object has fallen off the table, or lies farther off than a gripper should have to go."""
        positions = self._qpos[ids][:, self._object_qpos[:, :3]]
        (x_low, x_high), (y_low, y_high) = AREA_M
        away = np.abs(positions[:, :, :2] - ((x_low + x_high) / 2, (y_low + y_high) / 2))
        beyond = (away > (x_high - x_low, y_high - y_low)).any(axis=2)
        height_m = positions[:, :, 2] - self._rest_height_m[ids]
        lost = (beyond & (height_m < _LYING_M)) | (positions[:, :, 2] < -0.02)
        return np.any(lost, axis=1)

    # Observing

    def _vector(self, name: str, ids: Ids) -> NDArray[np.float32]:
        values = self._measured(ids) if name == "state" else self._privileged(ids)
        space = self._spaces[name]
        return np.clip(values, space.low, space.high, dtype=np.float32)

    @property
    def entries(self) -> Mapping[str, tuple[str, ...]]:
        """Of the state."""
        joints = range(1, len(self._arm_qpos) + 1)
        return {
            "state": (
                *(f"joint {j}, position less that at home, rad" for j in joints),
                *(f"joint {j}, velocity, rad/s" for j in joints),
                "opening of the gripper, 0 to 1",
                *(f"point between the finger tips from (0.5, 0, 0.2) m / 0.1 m, {axis}" for axis in "xyz"),
                *(f"gripper's {axis} axis, {part}" for axis in "xy" for part in "xyz"),
                *(f"way left to the commanded pose / one step's, {part}" for part in ("x", "y", "z", "turn")),
                *(f"last action, {part}" for part in ("x", "y", "z", "turn", "fingers")),
            )
        }

    @property
    def commands(self) -> tuple[Command, ...]:
        """Movement of the commanded pose in one step, and of the fingers up to a quarter of full action."""
        config = self.config
        fingers_m = _FINGER_GAIN * config.finger_speed_m_s * config.control_step_s
        return (
            *(Command(f"gripper along {axis}", "m per step", config.max_step_m) for axis in "xyz"),
            Command("gripper about the vertical", "rad per step", config.max_turn_rad),
            Command("each finger, up to a quarter of full action", "m per step", fingers_m),
        )

    def _measured(self, ids: Ids) -> Floats:
        axes = self._site_mat[ids, self._pinch].reshape(-1, 3, 3)[:, :, :2]
        return np.concatenate(
            [
                self._qpos[np.ix_(ids, self._arm_qpos)] - self._home[self._arm_qpos],
                self._qvel[np.ix_(ids, self._arm_dofs)],
                self._opening(ids)[:, None],
                (self._site_pos[ids, self._pinch] - _ORIGIN_M) / _SCALE_M,
                axes.transpose(0, 2, 1).reshape(-1, 6),
                (self._targets[ids] - self._gripper_poses(ids)) / self._reach,
                self._last_actions[ids],
            ],
            axis=1,
        )

    def _privileged(self, ids: Ids) -> Floats:
        n, k = len(ids), self.level.num_objects
        gripper = self._site_mat[ids, None, self._pinch].reshape(n, 1, 3, 3)  # turns into the base's frame: v @ R back
        offset = self._qpos[ids][:, self._object_qpos[:, :3]] - self._site_pos[ids, None, self._pinch]
        rotation = self._rotations(ids)
        velocity = self._qvel[ids][:, self._object_dofs]
        turning = (rotation @ velocity[..., 3:, None]).squeeze(
            -1
        )  # a free joint's angular velocity is in its own frame
        in_gripper = (
            np.stack([offset, rotation[..., 0], rotation[..., 1], velocity[..., :3], turning], axis=2) @ gripper
        )
        height = self._qpos[ids][:, self._object_qpos[:, 2]] - self._rest_height_m[ids]
        features = (
            np.concatenate(
                [in_gripper.reshape(n, k, 15), self._constants[ids], self._touches(ids), height[:, :, None]], axis=2
            )
            * _OBJECT_SCALES
        )
        order = np.argsort(np.linalg.norm(offset, axis=2), axis=1, kind="stable")
        features = np.take_along_axis(features, order[:, :, None], axis=1)
        arm = [self.randomized[name][ids] for name in ("mass_scale", "motor_strength_scale", "action_latency_s")]
        return np.column_stack([self._held_s[ids] / self.config.hold_s, *arm, features.reshape(n, -1)])

    def _results(self, ids: Ids) -> dict[str, NDArray[Any]]:
        success, lost = self._success[ids], self._lost[ids]
        was_up = self._highest_m[ids] > self.config.lift_height_m / 2
        dropped = ~success & was_up & (self._lift_m[ids] < _LYING_M)
        return {
            "success": success,
            "failure": failure_modes(success, {"drop": dropped, "lost": lost}),
            "lift_height_m": self._lift_m[ids],
            "time_to_success_s": np.where(success, self._elapsed[ids] * self.config.control_step_s, np.nan),
        }


class ManipulationEnv(MujocoEnv):
    """`ManipulationVectorEnv` with one arm, behind gymnasium's single interface.

    Args:
        config, layout_seeds, render_mode, **settings: See `ManipulationVectorEnv`.
    """

    vector_env = ManipulationVectorEnv


def oracle_action(env: ManipulationVectorEnv) -> NDArray[np.float32]:
    """What an operator would do who knew the first object's pose: go above it, down, close, and up.

    Returns:
        (num_envs, 5) actions.
    """
    ids = np.arange(env.num_envs)
    poses, gripper, command = env.object_poses[:, 0], env.gripper_poses, env.commanded_poses
    goal = np.empty((env.num_envs, 4))
    goal[:, :3] = poses[:, :3]
    # The fingers close along the gripper's y axis, which must lie along the object's, its narrower one.
    yaw = 2 * np.arctan2(poses[:, 6], poses[:, 3])
    goal[:, 3] = (yaw + np.pi / 2) % np.pi - np.pi / 2
    error = np.abs(goal - gripper)
    above = (error[:, :2] < 0.01).all(axis=1) & (error[:, 3] < 0.15)
    there = above & (error[:, 2] < 0.01)
    grasped = env._touches(ids)[:, 0].all(axis=1)
    goal[~above, 2] += 0.08
    goal[grasped] = gripper[grasped] + (0, 0, 0.02, 0)
    shut = np.where(there | grasped, -1.0, 1.0)
    actions = np.column_stack([(goal - command) / env._reach, shut])
    return np.clip(actions, -1, 1).astype(np.float32)


def _vector_spaces(joints: int, objects: int) -> dict[str, spaces.Box]:
    """Bounds far beyond what arms and objects do, unless thrown."""
    state = np.concatenate(
        [np.full(joints, 2 * np.pi), np.full(joints, 10), [1.2], np.full(3, 10), np.ones(6), np.full(4, 4), np.ones(5)]
    )
    features = np.concatenate(
        [np.full(3, 20), np.ones(6), np.full(6, 10), np.full(3, 2), np.ones(4), [10, 2], np.ones(2), [20]]
    )
    privileged = np.concatenate([[1.01, 10, 10, 2], np.tile(features, objects)])
    return {
        name: spaces.Box(-high.astype(np.float32), high.astype(np.float32), dtype=np.float32)
        for name, high in (("state", state), ("privileged", privileged))
    }


def _build_model(config: ManipulationConfig, num_objects: int) -> Any:
    """The arm behind a table with objects, whose shapes and places every reset draws, and the cameras."""
    robot = load_robot(config.robot)
    _check_arm(robot, config.robot)
    spec = mujoco.MjSpec()
    # Attached rather than added to, so that the arm's own defaults stay with the arm.
    spec.attach(robot, frame=spec.worldbody.add_frame(), prefix=_ARM)
    option, visual = spec.option, spec.visual
    option.timestep = _TIMESTEP_S
    option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    option.impratio = 10  # stiff friction: what is held does not creep out of the fingers
    option.iterations, option.ls_iterations = 50, 50  # with fewer line searches a grasp now and then explodes
    spec.stat.extent, spec.stat.center = 1, (0.5, 0, 0)
    visual.map.znear, visual.map.zfar = 0.01, config.max_depth_m
    # Boxes of two triangles a side: the default of sixteen times as many costs twice the drawing time.
    visual.quality.numquads = 1
    visual.headlight.ambient = (0.5, 0.5, 0.5)

    low, high = np.array(_TABLE_M)
    spec.worldbody.add_geom(
        name="table",
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=[*(high - low) / 2, 0.02],
        pos=[*(high + low) / 2, -0.02],
        rgba=[0.78, 0.7, 0.6, 1],
        contype=0,
        conaffinity=3,
    )
    # The third size is the grid a plane is drawn with: coarse is five times faster than fine.
    spec.worldbody.add_geom(
        name="floor",
        type=mujoco.mjtGeom.mjGEOM_PLANE,
        size=[20, 20, 20],
        pos=[0, 0, -_TABLE_HEIGHT_M],
        rgba=[0.75, 0.75, 0.72, 1],
        contype=0,
        conaffinity=0,
    )
    for k in range(num_objects):
        _add_object(spec, k)
    _add_camera(spec, "depth", config.camera_position_m, config.camera_target_m, config.vertical_fov_deg)
    _add_camera(spec, "top", (1.25, -0.7, 0.6), (0.33, 0, 0.22), 42)
    return spec.compile()


def _check_arm(spec: Any, robot: str) -> None:
    check_robot(
        spec, robot, geoms=("left_pad", "right_pad"), sites=("pinch",), cameras=("wrist",), actuators=("gripper",)
    )
    if len(spec.worldbody.bodies) != 1:
        raise ValueError(f"robot {robot!r} must have one root body, there are {len(spec.worldbody.bodies)}")
    if "home" not in [key.name for key in spec.keys]:
        raise ValueError(f"robot {robot!r} lacks a keyframe 'home'")
    servos = [actuator for actuator in spec.actuators if actuator.name != "gripper"]
    others = [servo.name for servo in servos if servo.trntype != mujoco.mjtTrn.mjTRN_JOINT]
    if others or len(servos) < 6:
        raise ValueError(
            f"robot {robot!r} must have position servos on at least six joints beside the gripper, there are "
            f"{len(servos)}" + (f", of which {others} are not on joints" if others else "")
        )


def _add_object(spec: Any, k: int) -> None:
    """A body of two geoms; what stands here is only what every reset leaves as it is."""
    body = spec.worldbody.add_body(
        name=f"object{k}",
        pos=[0.5, 0.2 * k, 0.05],
        explicitinertial=True,
        mass=0.1,
        ipos=[0, 0, 0],
        iquat=[1, 0, 0, 0],
        inertia=[1e-4] * 3,
    )
    body.add_freejoint(name=f"object{k}")
    for part in range(2):
        body.add_geom(
            name=f"object{k}_{part}",
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=[0.02, 0.02, 0.02],
            pos=[0.01 + 0.05 * part, 0, 0],  # off the body's origin, or the compiler takes it that they are never moved
            condim=6,  # with friction against rolling, so that a round object that is pushed comes to rest
            friction=[1, 0.01, 0.001],
            priority=1,  # friction is the object's, whatever it touches
            rgba=_COLORS[k % len(_COLORS)],
        )
    for side in ("left", "right"):
        spec.add_sensor(
            name=f"object{k}_{side}",
            type=mujoco.mjtSensor.mjSENS_CONTACT,
            objtype=mujoco.mjtObj.mjOBJ_GEOM,
            objname=f"{_ARM}{side}_pad",
            reftype=mujoco.mjtObj.mjOBJ_BODY,
            refname=f"object{k}",
            intprm=[1, 0, 1],  # whether there is a contact
        )


def _add_camera(spec: Any, name: str, position: Sequence[float], target: Sequence[float], fov_deg: float) -> None:
    backwards = np.subtract(position, target)
    backwards = backwards / np.linalg.norm(backwards)
    right = np.cross((0, 0, 1), backwards)
    right = right / np.linalg.norm(right)
    quat = np.empty(4)
    mujoco.mju_mat2Quat(quat, np.column_stack([right, np.cross(backwards, right), backwards]).ravel())
    spec.worldbody.add_camera(name=name, pos=list(position), quat=quat, fovy=fov_deg)
