"""Domain randomization: what differs between episodes in robot, ground and cameras, drawn from the episode's seed."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from defm_rl.names import hint

if TYPE_CHECKING:
    from mujoco.batch import Batch

Range = tuple[float, float]
Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

MAX_LATENCY_S = 2.0
_STREAM = 0x52414E44  # a task draws its layout from `default_rng(seed)`: this is another stream, whatever the task


@dataclass(frozen=True)
class Randomization:
    """Ranges (low, high) from which each episode draws its own values, uniformly; None leaves the model's own value.

    Attributes:
        friction_scale: Factor on the friction of all surfaces.
        mass_scale: Factor on mass and inertia of all of the robot's bodies.
        motor_strength_scale: Factor on gains and force limits of all actuators.
        camera_position_m: Offset of each depth camera along each of its own axes (right, up, back), in metres.
        camera_angle_deg: Turn of each depth camera, the three components of a rotation vector about its own axes, in
            degrees.
        camera_fov_scale: Factor on each depth camera's vertical field of view.
        action_latency_s: Time from a command to when it takes effect, rounded to whole control steps.
        depth_latency_s: Age of depth images when they arrive, rounded to whole control steps.
    """

    friction_scale: Range | None = None
    mass_scale: Range | None = None
    motor_strength_scale: Range | None = None
    camera_position_m: Range | None = None
    camera_angle_deg: Range | None = None
    camera_fov_scale: Range | None = None
    action_latency_s: Range | None = None
    depth_latency_s: Range | None = None

    def __post_init__(self) -> None:
        """Refuse what is not a range of such values.

        Raises:
            ValueError: Not (low, high); a factor that is not positive; a negative latency or one of 2 s or more.
        """
        for name, value in self.ranges().items():
            if isinstance(value, str) or not isinstance(value, Sequence) or len(value) != 2:
                raise ValueError(f"{name} must be a range (low, high) or None, got {value!r}")
            low, high = map(float, value)
            if not -math.inf < low <= high < math.inf:
                raise ValueError(f"{name} must be a range (low, high) with low <= high, both finite, got {value!r}")
            if name.endswith("_scale") and low <= 0:
                raise ValueError(f"{name} must be positive, got {value!r}")
            if name.endswith("_latency_s") and not 0 <= low <= high < MAX_LATENCY_S:
                raise ValueError(f"{name} must lie in 0 <= latency < {MAX_LATENCY_S:g} s, got {value!r}")
            object.__setattr__(self, name, (low, high))

    def ranges(self) -> dict[str, Range]:
        """The ranges that are not None, by name."""
        return {name: value for name in NAMES if (value := getattr(self, name)) is not None}

    @classmethod
    def of(cls, setting: "Randomization | str | Mapping[str, Any] | None") -> "Randomization":
        """Make one of what a configuration file can hold.

        Args:
            setting: A name in `RANDOMIZATIONS`, a mapping from names to ranges, None for no randomization.

        Raises:
            ValueError: An unknown name, or a range that makes no sense.
        """
        if isinstance(setting, Randomization):
            return setting
        if isinstance(setting, str):
            if setting not in RANDOMIZATIONS:
                raise ValueError(f"unknown randomization {setting!r}{hint(setting, RANDOMIZATIONS)}")
            return RANDOMIZATIONS[setting]
        for name in setting or {}:
            if name not in NAMES:
                raise ValueError(f"unknown randomization {name!r}{hint(name, NAMES)}")
        return cls(**(setting or {}))


NAMES = tuple(field.name for field in dataclasses.fields(Randomization))
_PER_CAMERA = {"camera_position_m": (3,), "camera_angle_deg": (3,), "camera_fov_scale": ()}
_FIELDS = {
    "friction_scale": ("geom_friction", "pair_friction"),
    "mass_scale": ("body_mass", "body_inertia"),
    "motor_strength_scale": ("actuator_gainprm", "actuator_biasprm", "actuator_forcerange", "jnt_actfrcrange"),
    "camera_position_m": ("cam_pos",),
    "camera_angle_deg": ("cam_quat",),
    "camera_fov_scale": ("cam_fovy",),
}

RANDOMIZATIONS: dict[str, Randomization] = {
    "none": Randomization(),
    "navigation": Randomization(camera_position_m=(-0.1, 0.1), camera_angle_deg=(-5.0, 5.0)),
    "grasping": Randomization(camera_position_m=(-0.03, 0.03), camera_angle_deg=(-3.0, 3.0)),
}
"""Published ranges: camera mountings of leggedrobotics/sru-navigation-sim and of DextrAH-RGB."""


class Randomizer:
    """Draws the values of episodes and writes them into the model fields of a batch.

    Args:
        randomization: From which ranges.
        batch: The simulations; the fields needed are expanded.
        robot_body: Name of the robot's root body; all bodies below it are the robot's too.
        cameras: Names of the depth cameras.
        control_step_s: Seconds between two actions.

    Attributes:
        fields: The fields written, (num_envs, ...), by name. `apply` expects the model's own values in them.
        values: What holds in each simulation now, by the names of `Randomization`: (num_envs,), for cameras (num_envs,
            cameras) or (num_envs, cameras, 3). Factors are 1 and offsets 0 where nothing is drawn; latencies are whole
            control steps.
        action_delays: (num_envs,) control steps.
        depth_delays: (num_envs,) control steps.

    Raises:
        ValueError: A field of view of 180 degrees or more; actuators whose strength is not in their gains.
    """

    def __init__(
        self,
        randomization: Randomization,
        batch: "Batch",
        robot_body: str,
        cameras: Sequence[str],
        control_step_s: float,
    ) -> None:
        model = batch.model
        self._batch = batch
        self._ranges = randomization.ranges()
        self._control_step_s = control_step_s
        self._robot_bodies = _subtree(model, model.body(robot_body).id)
        self._cameras = np.array([model.camera(name).id for name in cameras], np.int64)
        self._camera_quats = model.cam_quat[self._cameras].copy()
        self.fields = {field: batch.expand(field) for name in self._ranges for field in _FIELDS.get(name, ())}
        shapes = {name: (len(cameras), *_PER_CAMERA[name]) if name in _PER_CAMERA else () for name in NAMES}
        self.values: dict[str, Floats] = {
            name: np.full((batch.nsim, *shape), float(name.endswith("_scale"))) for name, shape in shapes.items()
        }
        self.action_delays, self.depth_delays = np.zeros((2, batch.nsim), np.int64)
        if "camera_fov_scale" in self._ranges:
            _check_fov(self._ranges["camera_fov_scale"], model.cam_fovy[self._cameras])
        if "motor_strength_scale" in self._ranges:
            _check_strengths(model)

    @property
    def max_action_delay(self) -> int:
        """The most control steps that `action_delays` can come to."""
        return self._steps(self._ranges.get("action_latency_s", (0.0, 0.0))[1])

    @property
    def max_depth_delay(self) -> int:
        """The most control steps that `depth_delays` can come to."""
        return self._steps(self._ranges.get("depth_latency_s", (0.0, 0.0))[1])

    def apply(self, ids: Ids, seeds: Sequence[int]) -> None:
        """Draw the episodes of these seeds and write them into simulations whose fields have the model's own values."""
        if not self._ranges:
            return
        self._draw(ids, seeds)
        values = {name: self.values[name][ids] for name in self._ranges}
        fields, rows = self.fields, ids[:, None]
        for name in {"friction_scale", "motor_strength_scale"} & values.keys():
            for field in _FIELDS[name]:
                fields[field][ids] *= values[name][:, None, None]
        if "camera_position_m" in values:
            fields["cam_pos"][rows, self._cameras] += _turned(self._camera_quats, values["camera_position_m"])
        if "camera_angle_deg" in values:
            turns = _rotations(np.radians(values["camera_angle_deg"]))
            fields["cam_quat"][rows, self._cameras] = _product(self._camera_quats, turns)
        if "camera_fov_scale" in values:
            fields["cam_fovy"][rows, self._cameras] *= values["camera_fov_scale"]
        if "mass_scale" in values:
            fields["body_mass"][rows, self._robot_bodies] *= values["mass_scale"][:, None]
            fields["body_inertia"][rows, self._robot_bodies] *= values["mass_scale"][:, None, None]
            self._batch.set_const(ids)  # what the solver derives from masses

    def _draw(self, ids: Ids, seeds: Sequence[int]) -> None:
        # Numbers are drawn for all names, in one order, so that switching one on does not change the others.
        counts = [self.values[name][0].size for name in NAMES]
        uniform = np.stack([np.random.default_rng([seed, _STREAM]).random(sum(counts)) for seed in seeds])
        for name, drawn in zip(NAMES, np.split(uniform, np.cumsum(counts)[:-1], axis=1), strict=True):
            if name in self._ranges:
                low, high = self._ranges[name]
                self.values[name][ids] = low + (high - low) * drawn.reshape(-1, *self.values[name].shape[1:])
        for name, delays in (("action_latency_s", self.action_delays), ("depth_latency_s", self.depth_delays)):
            delays[ids] = np.rint(self.values[name][ids] / self._control_step_s)
            self.values[name][ids] = delays[ids] * self._control_step_s

    def _steps(self, latency_s: float) -> int:
        return round(latency_s / self._control_step_s)


class DelayLine:
    """Gives back what was put in some steps earlier, in each simulation on its own.

    Args:
        num_envs: Number of simulations.
        max_delay: The most steps back.
        shape: Of one simulation's value.
        dtype: Of the values.
    """

    def __init__(self, num_envs: int, max_delay: int, shape: Sequence[int], dtype: Any) -> None:
        self._kept = np.zeros((num_envs, max_delay + 1, *shape), dtype)

    def __call__(self, ids: Ids, steps: Ids, values: NDArray[Any], delays: Ids) -> NDArray[Any]:
        """Keep the values of these steps and give those of `delays` steps before.

        Putting in the same step again changes nothing, and an episode that counts from 0 meets no value of the one
        before it, as long as no delay goes back beyond its beginning.

        Args:
            ids: (n,) simulations.
            steps: (n,) the step of its episode that each is in.
            values: (n, ...).
            delays: (n,), at most `steps` and at most the greatest delay.

        Returns:
            (n, ...), a copy.
        """
        length = self._kept.shape[1]
        self._kept[ids, steps % length] = values
        return self._kept[ids, (steps - delays) % length]


def _subtree(model: Any, root: int) -> Ids:
    """The ids of a body and of all below it."""
    below = {root}
    for body in range(root + 1, model.nbody):  # parents come before their children
        if model.body_parentid[body] in below:
            below.add(body)
    return np.array(sorted(below))


def _check_strengths(model: Any) -> None:
    gains = [mujoco.mjtGain.mjGAIN_FIXED, mujoco.mjtGain.mjGAIN_AFFINE]
    biases = [mujoco.mjtBias.mjBIAS_NONE, mujoco.mjtBias.mjBIAS_AFFINE]
    linear = np.isin(model.actuator_gaintype, gains) & np.isin(model.actuator_biastype, biases)
    if not linear.all():
        names = [model.actuator(i).name for i in np.flatnonzero(~linear)]
        raise ValueError(
            f"motor_strength_scale needs actuators whose gain is fixed or affine (motor, position, velocity); "
            f"{names} are of other kinds"
        )


def _check_fov(scale: Range, fovy_deg: Floats) -> None:
    if fovy_deg.max(initial=0) * scale[1] >= 180:
        raise ValueError(
            f"camera_fov_scale {scale} makes a vertical field of view of {fovy_deg.max() * scale[1]:.1f} degrees; "
            "it must stay below 180"
        )


def _rotations(vectors: Floats) -> Floats:
    """Unit quaternions of rotation vectors in radians, (..., 3) to (..., 4)."""
    half = np.linalg.norm(vectors, axis=-1, keepdims=True) / 2
    return np.concatenate([np.cos(half), vectors / 2 * np.sinc(half / np.pi)], axis=-1)


def _product(left: Floats, right: Floats) -> Floats:
    """Products of quaternions, (..., 4)."""
    w, v, s, u = left[..., :1], left[..., 1:], right[..., :1], right[..., 1:]
    return np.concatenate([w * s - (v * u).sum(-1, keepdims=True), w * u + s * v + np.cross(v, u)], axis=-1)


def _turned(quats: Floats, vectors: Floats) -> Floats:
    """Vectors (..., 3) turned by unit quaternions (..., 4)."""
    w, v = quats[..., :1], quats[..., 1:]
    return vectors + 2 * np.cross(v, np.cross(v, vectors) + w * vectors)
