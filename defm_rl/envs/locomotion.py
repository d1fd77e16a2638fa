"""Legged locomotion: a quadruped follows velocity commands over stairs, gaps, rungs and stones that it sees."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
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
from defm_rl.envs.quadruped import ACTUATOR_NAMES, JOINT_NAMES, LEGS, LINKS, Legs, Trot
from defm_rl.envs.randomization import Randomization
from defm_rl.envs.rendering import GEOM_GROUPS_SEEN
from defm_rl.envs.robots import check_robot, load_robot
from defm_rl.envs.terrains import (
    FINISH_X,
    GRID_SHAPE,
    LEVELS,
    PIT_M,
    START_X,
    Course,
    Level,
    draw_course,
    heights_at,
)
from defm_rl.names import look_up

Floats = NDArray[np.float64]

_GRAVITY_M_S2 = 9.81
_HALF_LANE_M = 0.5
_STANDING_RAD = (0.0, 0.9, -1.8)  # abduction, thigh and calf: the Go1's published stance
_SCAN_X_M = np.arange(-0.4, 0.81, 0.05)
_SCAN_Y_M = np.array([-0.18, -0.13, -0.08, 0.08, 0.13, 0.18])
_SCAN_POINTS_M = np.stack(np.meshgrid(_SCAN_X_M, _SCAN_Y_M, indexing="ij"), axis=-1).reshape(-1, 2)
_SCAN_RANGE_M = 0.2
_BOUND = 10.0  # of the vector observations: far beyond what walking gives


@dataclass(frozen=True)
class LocomotionConfig:
    """Everything about the task that can be set.

    Attributes:
        level: "flat", "stairs", "gaps", "rungs", "stones" or "mixed" (one of the four in each episode).
        robot: "quadruped", the path of an MJCF file, or `robot_descriptions:NAME`. For each leg of "FR", "FL", "RR"
            and "RL" it must have bodies "FR_hip" (on the body "trunk", which moves freely), "FR_thigh" and "FR_calf",
            each on the one before; joints "FR_hip_joint" (about x), "FR_thigh_joint" and "FR_calf_joint" (about y),
            the knee bent backwards by negative angles; actuators "FR_hip", "FR_thigh" and "FR_calf", of which PD
            servos are made within their force limits; and a geom "FR" on the calf, a sphere, the foot. MuJoCo
            Menagerie's Go1 has these names.
        difficulty: The range within 0 to 1 that each episode's difficulty is drawn from.
        observations: Which of "depth", "belly_depth", "state" and "privileged" to give; without the depth images
            nothing is rendered.
        depth_size: Height and width of the depth images in pixels.
        camera_position_m: Where the forward camera sits in the trunk's frame; the default is the Go1's face camera.
        camera_pitch_deg: How far the forward camera looks down.
        camera_fov_deg: The forward camera's vertical field of view. The default sees from the front feet to 1.5 m
            ahead.
        belly_position_m: Where the camera that looks straight down sits; the default is the Go1's rear belly camera.
        belly_fov_deg: The belly camera's field of view along the trunk.
        max_depth_m: How far cameras see, in metres; beyond are holes.
        renderer: "auto", "egl" or "rays".
        threads: Threads for physics and rendering; None for one per CPU.
        max_episode_steps: Control steps before an episode is cut off; None for half as long again as the slowest
            command takes.
        control_step_s: Seconds between two actions, a whole multiple of `physics_step_s`.
        physics_step_s: Seconds of a step of the physics.
        speed_m_s: The range that each episode's forward speed command is drawn from.
        stiffness_nm_rad: Stiffness of the PD servos.
        damping_nm_s_rad: Damping of the PD servos.
        action_scale_rad: Joint offset that action 1 commands, of abduction, thigh and calf.
        gait_period_s: Seconds of a cycle of the reference trot.
        swing_height_m: How high the reference trot lifts the feet.
        misstep_depth_m: A foot that sinks so far below the course's level has stepped into a hole, which ends the
            episode.
        velocity_reward: For moving as commanded, per second; nothing for standing, and the same taken away for going
            back.
        turn_reward: For turning as commanded, per second.
        bounce_penalty: For vertical velocity squared and a tenth of tilting rates squared, per second.
        action_penalty: For squared changes of the action, per second.
        power_penalty: For mechanical power, per joule.
        failure_penalty: For a fall, a misstep or leaving the course.
        success_reward: For the finish.
        randomization: What else differs between episodes: a `Randomization`, a name, or a mapping from names to
            ranges.
    """

    level: str = "gaps"
    robot: str = "quadruped"
    difficulty: tuple[float, float] = (0.0, 1.0)
    observations: tuple[str, ...] = ("depth", "belly_depth", "state")
    depth_size: tuple[int, int] = (48, 64)
    camera_position_m: tuple[float, float, float] = (0.2785, 0.0, 0.0167)
    camera_pitch_deg: float = 60.0
    camera_fov_deg: float = 94.0
    belly_position_m: tuple[float, float, float] = (-0.0825, 0.0, -0.0437)
    belly_fov_deg: float = 110.0
    max_depth_m: float = 4.0
    renderer: str = "auto"
    threads: int | None = None
    max_episode_steps: int | None = None
    control_step_s: float = 0.02
    physics_step_s: float = 0.005
    speed_m_s: tuple[float, float] = (0.35, 0.6)
    stiffness_nm_rad: float = 100.0
    damping_nm_s_rad: float = 3.0
    action_scale_rad: tuple[float, float, float] = (0.25, 0.5, 0.5)
    gait_period_s: float = 0.4
    swing_height_m: float = 0.08
    misstep_depth_m: float = 0.06
    velocity_reward: float = 1.0
    turn_reward: float = 0.5
    bounce_penalty: float = 0.5
    action_penalty: float = 0.25
    power_penalty: float = 0.001
    failure_penalty: float = 2.0
    success_reward: float = 2.0
    randomization: Randomization = field(default_factory=Randomization)

    def __post_init__(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ValueError: An unknown level or randomization, or a number out of range.
        """
        look_up("level", self.level, LEVELS)
        object.__setattr__(self, "randomization", Randomization.of(self.randomization))
        check_positive(self, "max_depth_m", "control_step_s", "physics_step_s", "gait_period_s", "stiffness_nm_rad")
        for name in ("camera_fov_deg", "belly_fov_deg"):
            if not 0 < getattr(self, name) < 180:
                raise ValueError(f"{name} must lie between 0 and 180, got {getattr(self, name)}")
        for name, highest in (("difficulty", 1.0), ("speed_m_s", 1.0)):
            low, high = getattr(self, name)
            if not 0 <= low <= high <= highest:
                raise ValueError(f"{name} must be (low, high) with 0 <= low <= high <= {highest}, got {(low, high)}")
        if not self.speed_m_s[0] > 0:
            raise ValueError(f"speed_m_s must be positive, got {self.speed_m_s}")


class LocomotionVectorEnv(MujocoVectorEnv):
    """A quadruped walks to the end of a course, by velocity commands. New obstacles every episode.

    The policy modulates a trot: joint targets are a reference gait, which knows the command but not the ground, plus
    the action. Commands hold the robot to the middle of the course, as a navigation layer would: the forward speed is
    drawn for each episode, sideways velocity and turn rate lead back to the line.

    Observation (a dict): "depth" and "belly_depth", float32 (1, height, width), planar metres, 0 where nothing is
    hit, of a camera that looks ahead and down and of one that looks down; the robot itself is not seen. "state",
    float32 (47,), what the robot can measure: direction of gravity in the trunk's frame (3), angular velocity / 4
    (3), joint angles less those of standing (12), joint velocities / 10 (12), last action (12), command (3), sine and
    cosine of the gait's phase (2). "privileged", float32 (166,), what only a simulator knows: velocity in the trunk's
    frame (3), height of the trunk above the ground, less that of standing, * 5 (1), foot contacts (4), heights of the
    feet above the ground * 5 (4), the ground's heights / 0.2 m on a grid around and ahead of the robot (25 x 6,
    relative to the standing robot's feet), what randomization changed in friction, mass and motor strength (as
    shares) and the actions' latency * 10 (4).

    Action: offsets of the twelve joints' targets, each from -1 to 1.

    Reward: for moving and turning as commanded; less for bouncing, jerky actions and power; a penalty for a failure
    and a prize for the finish, both of which end the episode. At the end info reports `success`, `failure` ("",
    "fall", "misstep": a foot in a hole, "off_course" or "timeout"), `falls` (1 after a fall or a misstep),
    `share_traversed` (of the way from start to finish), `energy_j` (mechanical work, positive or negative, of the
    joints), `cost_of_transport` (energy per weight and way), `speed_m_s`, `difficulty`, `steps` and `layout_seed`.

    Args:
        num_envs: Number of robots, each on a course of its own.
        config: The task; None for the defaults.
        autoreset_mode, layout_seeds, render_mode: See `MujocoVectorEnv`.
        **settings: Fields of `LocomotionConfig` to set otherwise, such as `level="stairs"`.

    Raises:
        TypeError: A setting that does not exist.
        ValueError: A value that makes no sense.
    """

    metadata: dict[str, Any] = {**MujocoVectorEnv.metadata, "render_fps": 50}

    def __init__(
        self,
        num_envs: int = 1,
        config: LocomotionConfig | None = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        layout_seeds: Iterable[int] = (),
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        self.config = configured(LocomotionConfig, config, settings)
        self.level = look_up("level", self.config.level, LEVELS)
        model = _build_model(self.config, self.level)
        self._substeps = whole_substeps(self.config.control_step_s, model.opt.timestep)
        super().__init__(
            model,
            num_envs,
            vectors={"state": _box(47), "privileged": _box(16 + len(_SCAN_POINTS_M))},
            cameras={"depth": "front", "belly_depth": "belly"},
            action_space=spaces.Box(-1.0, 1.0, (12,), np.float32),
            fields=BOX_FIELDS,
            robot_body="trunk",
            control_step_s=self.config.control_step_s,
            depth_size=self.config.depth_size,
            observations=self.config.observations,
            renderer=self.config.renderer,
            threads=self.config.threads,
            max_episode_steps=_max_episode_steps(self.config),
            randomization=self.config.randomization,
            autoreset_mode=autoreset_mode,
            layout_seeds=layout_seeds,
            render_mode=render_mode,
        )
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._sensordata = self._batch.bind("sensordata")
        self._boxes = Boxes(model, [f"box{k}" for k in range(self.level.num_boxes)], self._fields)
        self._weight_n = float(model.body("trunk").subtreemass[0]) * _GRAVITY_M_S2
        self._joint_qpos = np.array([model.joint(name).qposadr[0] for name in JOINT_NAMES])
        self._joint_dofs = np.array([model.joint(name).dofadr[0] for name in JOINT_NAMES])
        self._joint_range = np.array([model.joint(name).range for name in JOINT_NAMES]).T
        self._actuators = np.array([model.actuator(name).id for name in ACTUATOR_NAMES])
        self._contacts = np.array([model.sensor(f"contact_{name}").adr[0] for name in (*LEGS, "trunk")])
        self._foot_radius_m = float(model.geom("FR").size[0])

        self._legs = Legs.of_model(model)
        self._standing = np.tile(_STANDING_RAD, 4)
        self._trot = Trot(
            self._legs,
            self._legs.feet(self._standing.reshape(4, 3)),
            self.config.gait_period_s,
            self.config.swing_height_m,
        )
        self._standing_height_m = self._foot_radius_m - float(self._trot.stance[:, 2].mean())
        self._action_scale = np.tile(self.config.action_scale_rad, 4)

        self._courses: list[Course | None] = [None] * num_envs
        self._heights = np.zeros((num_envs, *GRID_SHAPE), np.float32)
        self._phase, self._speed, self._energy_j, self._difficulty = np.zeros((4, num_envs))
        self._command = np.zeros((num_envs, 3))
        self._acting = np.zeros((num_envs, 12))  # what the servos do now: the last action, but for latency
        self._touching = np.zeros((num_envs, 5), bool)  # four feet and the trunk
        self._success, self._fall, self._misstep, self._off_course = np.zeros((4, num_envs), bool)

    def course(self, index: int) -> Course:
        """The course of environment `index` now.

        Raises:
            RuntimeError: Before the first reset.
        """
        course = self._courses[index]
        if course is None:
            raise RuntimeError("there is no course before the first reset()")
        return course

    @property
    def poses(self) -> Floats:
        """Where the trunks are now: (num_envs, 7), position in metres and quaternion (w, x, y, z)."""
        return self._qpos[:, :7].copy()

    @property
    def feet(self) -> Floats:
        """Where the centres of the feet are now: (num_envs, 4, 3) in metres, in the order of `quadruped.LEGS`."""
        return self._feet(np.arange(self.num_envs))

    def _begin(self, ids: Ids, seeds: Sequence[int]) -> None:
        for i, seed in zip(ids.tolist(), seeds, strict=True):
            rng = np.random.default_rng(seed)
            course = draw_course(self.level, self.config.difficulty, rng)
            self._courses[i] = course
            self._boxes.place(i, course.boxes)
            self._heights[i] = course.heights
            self._difficulty[i] = course.difficulty
            self._speed[i] = rng.uniform(*self.config.speed_m_s)
            self._phase[i] = rng.uniform()
            yaw = rng.uniform(-0.1, 0.1)
            self._qpos[i, :7] = (
                0,
                rng.uniform(-0.1, 0.1),
                self._standing_height_m,
                np.cos(yaw / 2),
                0,
                0,
                np.sin(yaw / 2),
            )
        for values in (self._acting, self._energy_j):
            values[ids] = 0
        for flags in (self._touching, self._success, self._fall, self._misstep, self._off_course):
            flags[ids] = False
        self._steer(ids)
        angles = self._trot.angles(self._phase[ids], self._command[ids]).reshape(-1, 12)
        self._qpos[ids[:, None], self._joint_qpos] = angles
        self._ctrl[ids[:, None], self._actuators] = angles

    def _steer(self, ids: Ids) -> None:
        """Command the velocity that leads along the middle of the course."""
        yaw, y = self._yaw(ids), self._qpos[ids, 1]
        self._command[ids, 0] = self._speed[ids]
        self._command[ids, 1] = np.clip(-y, -0.15, 0.15)
        self._command[ids, 2] = np.clip(2 * (np.clip(-1.5 * y, -0.4, 0.4) - yaw), -0.5, 0.5)

    def _advance(self, ids: Ids, actions: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        config = self.config
        self._phase[ids] = (self._phase[ids] + config.control_step_s / config.gait_period_s) % 1.0
        reference = self._trot.angles(self._phase[ids], self._command[ids]).reshape(-1, 12)
        targets = np.clip(reference + self._action_scale * actions, *self._joint_range)
        self._ctrl[ids[:, None], self._actuators] = targets
        record = self._batch.rollout(self._substeps, record=("actuator_force", "qvel"), ids=ids)
        power_w = np.abs(record["actuator_force"][..., self._actuators] * record["qvel"][..., self._joint_dofs])
        self._touching[ids] = self._sensordata[ids[:, None], self._contacts] > 0
        energy_j = power_w.sum(axis=(1, 2)) * config.physics_step_s
        self._energy_j[ids] += energy_j

        rewards = self._rewards(ids, actions, energy_j)
        self._acting[ids] = actions
        ended = self._judge(ids)
        rewards += config.success_reward * self._success[ids]
        rewards -= config.failure_penalty * (ended & ~self._success[ids])
        self._steer(ids)
        return rewards, ended

    def _rewards(self, ids: Ids, actions: Floats, energy_j: Floats) -> Floats:
        """What this step's motion is worth, by the commands it was made under."""
        config, command, yaw = self.config, self._command[ids], self._yaw(ids)
        velocity, angular = self._qvel[ids, :3], self._qvel[ids, 3:6]
        cos, sin = np.cos(yaw), np.sin(yaw)
        forward, left = velocity[:, 0] * cos + velocity[:, 1] * sin, velocity[:, 1] * cos - velocity[:, 0] * sin
        velocity_error = np.hypot(command[:, 0] - forward, command[:, 1] - left) / np.hypot(
            command[:, 0], command[:, 1]
        )
        turn_error = (command[:, 2] - angular[:, 2]) ** 2
        per_second = config.velocity_reward * np.clip(1 - velocity_error, -1, 1)
        per_second += config.turn_reward * np.exp(-turn_error / 0.25)
        per_second -= config.bounce_penalty * (velocity[:, 2] ** 2 + 0.1 * (angular[:, :2] ** 2).sum(axis=1))
        per_second -= config.action_penalty * ((actions - self._acting[ids]) ** 2).sum(axis=1)
        rewards: Floats = config.control_step_s * per_second - config.power_penalty * energy_j
        return rewards

    def _judge(self, ids: Ids) -> NDArray[np.bool_]:
        """Note who has arrived or failed; return whose episodes end."""
        position = self._qpos[ids, :3]
        tilted = self._rotation(ids)[:, 2, 2] < 0.5
        self._fall[ids] = tilted | self._touching[ids, 4]
        lowest = self._feet(ids)[..., 2].min(axis=1) - self._foot_radius_m
        self._misstep[ids] = lowest < -self.config.misstep_depth_m
        self._off_course[ids] = (np.abs(position[:, 1]) > _HALF_LANE_M) | (position[:, 0] < START_X / 2)
        failed = self._fall[ids] | self._misstep[ids] | self._off_course[ids]
        self._success[ids] = ~failed & (position[:, 0] >= FINISH_X)
        ended: NDArray[np.bool_] = failed | self._success[ids]
        return ended

    def _rotation(self, ids: Ids) -> Floats:
        """The trunks' orientations as matrices, (n, 3, 3)."""
        w, x, y, z = self._qpos[ids, 3:7].T
        rotation = np.empty((len(ids), 3, 3))
        rotation[:, 0] = np.transpose([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)])
        rotation[:, 1] = np.transpose([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)])
        rotation[:, 2] = np.transpose([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)])
        return rotation

    def _yaw(self, ids: Ids) -> Floats:
        w, x, y, z = self._qpos[ids, 3:7].T
        yaw: Floats = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        return yaw

    def _feet(self, ids: Ids) -> Floats:
        feet = self._legs.feet(self._qpos[ids[:, None], self._joint_qpos].reshape(-1, 4, 3))
        return feet @ self._rotation(ids).transpose(0, 2, 1) + self._qpos[ids, None, :3]

    def _vector(self, name: str, ids: Ids) -> NDArray[np.float32]:
        parts = self._measured(ids) if name == "state" else self._privileged(ids)
        return np.clip(np.concatenate(parts, axis=1), -_BOUND, _BOUND).astype(np.float32)

    @property
    def entries(self) -> Mapping[str, tuple[str, ...]]:
        """Of the state."""
        return {
            "state": (
                *(f"gravity's direction in the trunk's frame, {axis}" for axis in "xyz"),
                *(f"angular velocity / 4 rad/s, {axis}" for axis in "xyz"),
                *(f"angle less that of standing, rad, {name}" for name in JOINT_NAMES),
                *(f"velocity / 10 rad/s, {name}" for name in JOINT_NAMES),
                *(f"last action, {name}" for name in ACTUATOR_NAMES),
                *("commanded speed forwards, m/s", "commanded speed to the left, m/s", "commanded turn rate, rad/s"),
                *("sine of the gait's phase", "cosine of the gait's phase"),
            )
        }

    @property
    def commands(self) -> tuple[Command, ...]:
        """Offsets of the joints' targets from the reference gait."""
        scales = np.tile(self.config.action_scale_rad, 4)
        return tuple(
            Command(f"{name}, added to the reference gait", "rad", float(scale))
            for name, scale in zip(ACTUATOR_NAMES, scales, strict=True)
        )

    def _measured(self, ids: Ids) -> list[Floats]:
        phase = 2 * np.pi * self._phase[ids, None]
        return [
            -self._rotation(ids)[:, 2],
            self._qvel[ids, 3:6] / 4,
            self._qpos[ids[:, None], self._joint_qpos] - self._standing,
            self._qvel[ids[:, None], self._joint_dofs] / 10,
            self._last_actions[ids],
            self._command[ids],
            np.sin(phase),
            np.cos(phase),
        ]

    def _privileged(self, ids: Ids) -> list[Floats]:
        position, yaw, feet = self._qpos[ids, :3], self._yaw(ids), self._feet(ids)
        cos, sin = np.cos(yaw), np.sin(yaw)
        turn = np.stack([cos, sin, -sin, cos], axis=1).reshape(-1, 2, 2)  # for rows on its left
        scan_points = _SCAN_POINTS_M @ turn + position[:, None, :2]
        points = np.concatenate([position[:, None, :2], feet[..., :2], scan_points], axis=1)
        heights = heights_at(self._heights, ids, points)
        standing = position[:, 2, None] - self._standing_height_m
        return [
            (self._qvel[ids, None, :3] @ self._rotation(ids))[:, 0],
            np.clip(5 * (standing - heights[:, :1]), -2, 2),
            self._touching[ids, :4].astype(np.float64),
            np.clip(5 * (feet[..., 2] - self._foot_radius_m - heights[:, 1:5]), -2, 2),
            np.clip((heights[:, 5:] - standing) / _SCAN_RANGE_M, -1, 1),
            *[
                self.randomized[name][ids, None] - 1
                for name in ("friction_scale", "mass_scale", "motor_strength_scale")
            ],
            10 * self.randomized["action_latency_s"][ids, None],
        ]

    def _results(self, ids: Ids) -> dict[str, NDArray[Any]]:
        way_m, energy_j, success = self._qpos[ids, 0], self._energy_j[ids], self._success[ids]
        fall, misstep = self._fall[ids], self._misstep[ids]
        weight_n = self._weight_n * self.randomized["mass_scale"][ids]
        modes = {"fall": fall, "misstep": misstep, "off_course": self._off_course[ids]}
        return {
            "success": success,
            "failure": failure_modes(success, modes),
            "falls": (fall | misstep).astype(np.int64),
            "share_traversed": np.clip(way_m / FINISH_X, 0, 1),
            "energy_j": energy_j,
            "cost_of_transport": energy_j / (weight_n * np.maximum(way_m, 0.1)),
            "speed_m_s": way_m / (self._elapsed[ids] * self.config.control_step_s),
            "difficulty": self._difficulty[ids],
        }


class LocomotionEnv(MujocoEnv):
    """`LocomotionVectorEnv` with one robot, behind gymnasium's single interface.

    Args:
        config, layout_seeds, render_mode, **settings: See `LocomotionVectorEnv`.
    """

    vector_env = LocomotionVectorEnv
    metadata = LocomotionVectorEnv.metadata


def _box(size: int) -> spaces.Box:
    return spaces.Box(-_BOUND, _BOUND, (size,), np.float32)


def _max_episode_steps(config: LocomotionConfig) -> int:
    if config.max_episode_steps is not None:
        return config.max_episode_steps
    return int(np.ceil(1.5 * FINISH_X / config.speed_m_s[0] / config.control_step_s))


def _build_model(config: LocomotionConfig, level: Level) -> Any:
    """The robot at the start of a course, with as many boxes as the level has, to be placed at every reset."""
    spec = load_robot(config.robot)
    _check_quadruped(spec, config.robot)
    for geom in spec.geoms:
        geom.group = max(geom.group, GEOM_GROUPS_SEEN.index(0))
    spec.memory = 2**20
    spec.option.timestep = config.physics_step_s
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.stat.extent = 1
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = config.max_depth_m
    spec.visual.quality.numquads = 1  # boxes of two triangles a side: more cost twice the drawing time
    spec.visual.headlight.ambient = [0.5, 0.5, 0.5]
    _servo_joints(spec, config)
    _add_cameras(spec, config)
    for name, kind in (*[(leg, mujoco.mjtObj.mjOBJ_GEOM) for leg in LEGS], ("trunk", mujoco.mjtObj.mjOBJ_BODY)):
        sensor = mujoco.mjtSensor.mjSENS_CONTACT
        spec.add_sensor(
            name=f"contact_{name}", type=sensor, objtype=kind, objname=name, intprm=[1, 0, 1]
        )  # found, any, 1
    # The third size of a plane is the grid it is drawn with: coarse is five times faster than fine.
    plane = mujoco.mjtGeom.mjGEOM_PLANE
    spec.worldbody.add_geom(
        name="pit", type=plane, size=[20, 20, 20], pos=[0, 0, -PIT_M], group=0, contype=1, conaffinity=1
    )
    for k in range(level.num_boxes):
        add_box(spec, f"box{k}", (0, 0, 0), (0.1, 0.1, 0.1), (0.6, 0.62, 0.66, 1) if k % 2 else (0.5, 0.55, 0.6, 1))
    return spec.compile()


def _check_quadruped(spec: Any, robot: str) -> None:
    bodies = ("trunk", *(f"{leg}_{link}" for leg in LEGS for link in LINKS))
    check_robot(spec, robot, bodies=bodies, joints=JOINT_NAMES, geoms=LEGS, actuators=ACTUATOR_NAMES)
    for leg in LEGS:
        for above, below in pairwise(("trunk", *(f"{leg}_{link}" for link in LINKS))):
            if spec.body(below).parent.name != above:
                raise ValueError(f"robot {robot!r}: body {below!r} must be on {above!r}")
        if spec.geom(leg).type != mujoco.mjtGeom.mjGEOM_SPHERE or spec.geom(leg).parent.name != f"{leg}_calf":
            raise ValueError(f"robot {robot!r}: geom {leg!r} must be a sphere on body '{leg}_calf'")
    if [joint.type for joint in spec.body("trunk").joints] != [mujoco.mjtJoint.mjJNT_FREE]:
        raise ValueError(f"robot {robot!r}: body 'trunk' must have one joint, a free one")


def _servo_joints(spec: Any, config: LocomotionConfig) -> None:
    """Make PD servos of the joints' actuators, within their force limits."""
    for name in ACTUATOR_NAMES:
        actuator = spec.actuator(name)
        actuator.ctrllimited = False
        actuator.set_to_position(kp=config.stiffness_nm_rad, kv=config.damping_nm_s_rad)


def _add_cameras(spec: Any, config: LocomotionConfig) -> None:
    """Put the two depth cameras and the one for pictures on the trunk."""
    trunk, pitch = spec.body("trunk"), np.radians(config.camera_pitch_deg)
    front = trunk.add_camera(name="front", pos=config.camera_position_m, fovy=config.camera_fov_deg)
    _turn(front, (0, -1, 0), (np.sin(pitch), 0, np.cos(pitch)))
    # Wide along the trunk: what is ahead is to the right in this image.
    height, width = config.depth_size
    belly_fovy = np.degrees(2 * np.arctan(np.tan(np.radians(config.belly_fov_deg) / 2) * height / width))
    belly = trunk.add_camera(name="belly", pos=config.belly_position_m, fovy=belly_fovy)
    _turn(belly, (1, 0, 0), (0, 1, 0))
    top = trunk.add_camera(name="top", mode=mujoco.mjtCamLight.mjCAMLIGHT_TRACK, pos=(0.2, -1.3, 0.75), fovy=45)
    _turn(top, (1, 0, 0), (0, 0.55, 0.835))


def _turn(camera: Any, right: Sequence[float], up: Sequence[float]) -> None:
    """Turn a camera so that its image's axes lie along these directions of its body."""
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = [*right, *up]
