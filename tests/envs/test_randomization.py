"""Domain randomization: each range seen in what robots do and cameras see, and that seeds alone decide."""

import dataclasses

import mujoco
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from scipy.spatial.transform import Rotation

from defm_rl.envs import NavigationVectorEnv
from defm_rl.envs.core import MujocoVectorEnv, failure_modes
from defm_rl.envs.randomization import NAMES, RANDOMIZATIONS, Randomization
from defm_rl.sensors import MOUNTINGS

SIZE = (12, 24)
MASS_KG, GRAVITY_M_S2, WALL_X_M, STEP_S = 2.0, 9.81, 20.0, 0.1
RENDERERS = pytest.mark.parametrize("renderer", ["egl", "rays"])


class SledEnv(MujocoVectorEnv):
    """A box that slides along x towards a wall at 20 m, pushed by its action in newtons (8 at most), with two cameras.

    Each episode begins at a place and speed drawn from its seed, unless `speed_m_s` says so. The state is position,
    speed, the force commanded last and the force that acted.
    """

    def __init__(self, num_envs=1, *, friction=0.0, speed_m_s=None, xml="", observations=("state",), **settings):
        model = mujoco.MjModel.from_xml_string(f"""
            <mujoco>
              <option timestep="0.01" gravity="0 0 -{GRAVITY_M_S2}" integrator="implicitfast" cone="elliptic"/>
              <statistic extent="1"/>
              <visual><map znear="0.02" zfar="50"/></visual>
              <worldbody>
                <geom type="plane" size="50 50 50" friction="{friction} 0 0"/>
                <geom type="box" size="0.1 50 50" pos="{WALL_X_M + 0.1} 0 0"/>
                <body name="sled" pos="0 0 0.1">
                  <joint name="x" type="slide" axis="1 0 0"/>
                  <joint name="z" type="slide" axis="0 0 1"/>
                  <geom type="box" size="0.1 0.1 0.1" mass="{MASS_KG - 0.5}" friction="{friction} 0 0" group="3"/>
                  <body name="load"><geom size="0.05" mass="0.5" group="3" contype="0" conaffinity="0"/></body>
                  <camera name="front" pos="0 0 5" xyaxes="0 -1 0 0 0 1" fovy="30"/>
                  <camera name="tilted" pos="0.1 0 6" xyaxes="0 -1 0 0.5 0 0.8660254" fovy="40"/>
                </body>
              </worldbody>
              <actuator><motor name="push" joint="x" forcerange="-8 8"/>{xml}</actuator>
            </mujoco>""")
        self._speed_m_s = speed_m_s
        box = spaces.Box(-np.inf, np.inf, (4,), np.float32)
        super().__init__(
            model,
            num_envs,
            vectors={"state": box, "privileged": box},
            cameras={"depth": "front", "tilted_depth": "tilted"},
            action_space=spaces.Box(-20.0, 20.0, (1,), np.float32),
            idle_action=(-3.0,),
            fields=(),
            robot_body="sled",
            control_step_s=STEP_S,
            depth_size=SIZE,
            observations=observations,
            **settings,
        )
        self._qpos, self._qvel, self._ctrl = (self._batch.bind(name) for name in ("qpos", "qvel", "ctrl"))

    def _begin(self, ids, seeds):
        for i, seed in zip(ids, seeds, strict=True):
            rng = np.random.default_rng(seed)
            self._qpos[i, 0], self._qvel[i, 0] = rng.uniform(0, 5), rng.uniform(0.5, 3)
            if self._speed_m_s is not None:
                self._qvel[i, 0] = self._speed_m_s

    def _advance(self, ids, actions):
        self._ctrl[ids] = actions
        self._batch.step(ids, 10)
        return np.zeros(len(ids)), np.zeros(len(ids), bool)

    def _vector(self, name, ids):
        if name == "privileged":
            return np.full((len(ids), 4), self.randomized["mass_scale"][ids, None], np.float32)
        parts = [self._qpos[ids, :1], self._qvel[ids, :1], self._last_actions[ids], self._ctrl[ids]]
        return np.concatenate(parts, axis=1).astype(np.float32)

    def _results(self, ids):
        success = np.zeros(len(ids), bool)
        return {"success": success, "failure": failure_modes(success, {})}


@pytest.fixture
def make():
    """Makes sleds that are closed afterwards."""
    made = []

    def _make(num_envs=1, randomization=None, **settings):
        made.append(SledEnv(num_envs, randomization=Randomization.of(randomization), **settings))
        return made[-1]

    yield _make
    for env in made:
        env.close()


def fixed(**values):
    """Randomization that always draws these values."""
    return {name: (value, value) for name, value in values.items()}


def push(env, force, steps=5):
    """The speeds after each step."""
    env.reset(seed=0)
    actions = np.full((env.num_envs, 1), force)
    return np.array([env.step(actions)[0]["state"][:, 1] for _ in range(steps)])


RANGES = {
    "friction_scale": (0.5, 1.5),
    "mass_scale": (0.8, 1.3),
    "motor_strength_scale": (0.7, 1.2),
    "camera_position_m": (-0.1, 0.2),
    "camera_angle_deg": (-5.0, 10.0),
    "camera_fov_scale": (0.9, 1.2),
    "action_latency_s": (0.0, 0.5),
    "depth_latency_s": (0.1, 0.6),
}


# What is drawn


def test_values_are_drawn_uniformly_within_their_ranges(make):
    env = make(50, RANGES)
    drawn = {name: [] for name in NAMES}
    for first in range(0, 1000, 50):
        env.reset(options={"layout_seeds": range(first, first + 50)}, seed=0)
        for name in NAMES:
            drawn[name].append(env.randomized[name].copy())
    assert drawn.keys() == RANGES.keys()
    for name, (low, high) in RANGES.items():
        values = np.concatenate(drawn[name]).reshape(1000, -1)
        assert low <= values.min() < low + 0.02 * (high - low) + 1e-9
        assert high - 0.02 * (high - low) - 1e-9 < values.max() <= high + 1e-9
        np.testing.assert_allclose(values.mean(0), (low + high) / 2, atol=0.04 * (high - low))
        np.testing.assert_allclose(values.std(0), (high - low) / np.sqrt(12), rtol=0.1 if "latency" in name else 0.05)
        if "latency" in name:
            np.testing.assert_allclose(values / STEP_S, np.rint(values / STEP_S), atol=1e-9)
    assert env.randomized["camera_position_m"].shape == env.randomized["camera_angle_deg"].shape == (50, 2, 3)
    assert env.randomized["camera_fov_scale"].shape == (50, 2)


def test_an_episodes_values_follow_from_its_seed_alone(make):
    many, one = make(4, RANGES), make(1, RANGES)
    many.reset(options={"layout_seeds": [7, 3, 8, 3]}, seed=1)
    one.reset(options={"layout_seeds": [3]}, seed=2)
    for name in NAMES:
        np.testing.assert_array_equal(many.randomized[name][1], one.randomized[name][0])
        np.testing.assert_array_equal(many.randomized[name][1], many.randomized[name][3])
        assert not np.array_equal(many.randomized[name][0], many.randomized[name][1]) or "latency" in name


def test_switching_one_on_does_not_change_another(make):
    everything, little = make(3, RANGES), make(3, {"camera_fov_scale": RANGES["camera_fov_scale"]})
    everything.reset(seed=5)
    little.reset(seed=5)
    np.testing.assert_array_equal(everything.randomized["camera_fov_scale"], little.randomized["camera_fov_scale"])


def test_what_is_off_says_so(make):
    env = make(2)
    env.reset(seed=0)
    for name in NAMES:
        np.testing.assert_array_equal(env.randomized[name], float(name.endswith("_scale")))


def test_layouts_are_the_same_with_and_without():
    plain, random = (
        NavigationVectorEnv(3, level="boxes", observations=("state",), randomization=setting)
        for setting in ("none", RANGES)
    )
    states = [env.reset(seed=4)[0]["state"] for env in (plain, random)]
    np.testing.assert_array_equal(*states)
    for i in range(3):
        np.testing.assert_array_equal(plain.layout(i).boxes, random.layout(i).boxes)
    plain.close()
    random.close()


def play(env, steps=30):
    """Everything that a run gives."""
    rng = np.random.default_rng(0)
    seen = list(env.reset(seed=3)[0].values())
    for _ in range(steps):
        observation, *outcome, _ = env.step(rng.uniform(-1, 1, (env.num_envs, 2)))
        seen += [*observation.values(), *outcome]
    return seen


@RENDERERS
def test_same_seed_same_episodes_and_factors_of_one_change_no_bit(renderer):
    neutral = fixed(**{name: float(name.endswith("_scale")) for name in NAMES})
    runs = []
    for setting in ("none", neutral, RANGES, RANGES):
        env = NavigationVectorEnv(3, level="boxes", depth_size=SIZE, renderer=renderer, randomization=setting)
        runs.append(play(env))
        env.close()
    for first, second in ((0, 1), (2, 3)):
        for a, b in zip(runs[first], runs[second], strict=True):
            np.testing.assert_array_equal(a, b)
    assert not np.array_equal(runs[0][-4], runs[2][-4])


# What it does to robot and ground


def test_a_heavier_robot_accelerates_less(make):
    speeds = push(make(speed_m_s=0.0), force=4.0)
    np.testing.assert_allclose(speeds[-1], 4.0 / MASS_KG * 5 * STEP_S, rtol=1e-4)
    heavier = push(make(randomization=fixed(mass_scale=1.6), speed_m_s=0.0), force=4.0)
    np.testing.assert_allclose(heavier, speeds / 1.6, rtol=1e-4)


def test_masses_do_not_pile_up_over_episodes(make):
    env = make(2, {"mass_scale": (1.5, 2.0)}, max_episode_steps=3)
    env.reset(seed=0)
    for _ in range(30):
        env.step(np.zeros((2, 1)))
    for i in range(2):
        model = env._batch.get_model(i)
        np.testing.assert_allclose(model.body_mass[1:].sum(), MASS_KG * env.randomized["mass_scale"][i])
        np.testing.assert_allclose(model.body_subtreemass[1], MASS_KG * env.randomized["mass_scale"][i])


def test_a_weaker_motor_pushes_less_and_has_a_lower_limit(make):
    full, weak = make(speed_m_s=0.0), make(randomization=fixed(motor_strength_scale=0.6), speed_m_s=0.0)
    np.testing.assert_allclose(push(weak, 4.0), push(full, 4.0) * 0.6, rtol=1e-4)
    np.testing.assert_allclose(push(full, 20.0)[-1], 8.0 / MASS_KG * 5 * STEP_S, rtol=1e-4)
    np.testing.assert_allclose(push(weak, 20.0), push(full, 20.0) * 0.6, rtol=1e-4)


def test_a_stronger_motor_makes_up_for_more_mass(make):
    both = make(randomization=fixed(motor_strength_scale=1.5, mass_scale=1.5))
    np.testing.assert_allclose(push(both, 5.0), push(make(), 5.0), rtol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.5])
def test_a_rougher_ground_brakes_more(make, scale):
    speeds = push(make(randomization=fixed(friction_scale=scale), friction=0.05, speed_m_s=4.0), force=0.0, steps=20)
    braked = (speeds[9] - speeds[19]) / (10 * STEP_S)  # by then it has settled on the ground
    np.testing.assert_allclose(braked, 0.05 * scale * GRAVITY_M_S2, rtol=0.03)


def test_a_teacher_can_see_what_was_drawn(make):
    env = make(3, RANGES, observations=("privileged",))
    observation = env.reset(seed=0)[0]
    assert list(observation) == ["privileged"]
    np.testing.assert_allclose(observation["privileged"][:, 0], env.randomized["mass_scale"], rtol=1e-6)


# What it does to cameras


@RENDERERS
def test_moved_turned_and_zoomed_cameras_see_the_wall_where_geometry_has_it(make, renderer):
    cameras = {name: RANGES[name] for name in ("camera_position_m", "camera_angle_deg", "camera_fov_scale")}
    env = make(6, cameras, observations=("depth", "tilted_depth"), renderer=renderer)
    observation = env.reset(seed=2)[0]
    tilts = {"depth": (30, 0, (0, 5)), "tilted_depth": (40, np.radians(30), (0.1, 6))}
    height, width = SIZE
    for c, (name, (fovy_deg, tilt, (ahead_m, above_m))) in enumerate(tilts.items()):
        meant = Rotation.from_matrix([[0, np.sin(tilt), -np.cos(tilt)], [-1, 0, 0], [0, np.cos(tilt), np.sin(tilt)]])
        for i in range(env.num_envs):
            drawn = {key: env.randomized[key][i, c] for key in cameras}
            rotation = meant * Rotation.from_rotvec(drawn["camera_angle_deg"], degrees=True)
            position = (env._qpos[i, 0] + ahead_m, 0, 0.1 + above_m) + meant.apply(drawn["camera_position_m"])
            pixel = 2 * np.tan(np.radians(fovy_deg * drawn["camera_fov_scale"]) / 2) / height
            right = pixel * (np.arange(width) + 0.5 - width / 2)
            up = pixel * (height / 2 - 0.5 - np.arange(height))
            rays = np.stack(np.broadcast_arrays(right, up[:, None], -1.0), axis=-1)
            ways = rotation.apply(rays.reshape(-1, 3)).reshape(rays.shape)
            with np.errstate(divide="ignore"):
                to_wall = np.where(ways[..., 0] > 0, (WALL_X_M - position[0]) / ways[..., 0], np.inf)
                to_floor = np.where(ways[..., 2] < 0, -position[2] / ways[..., 2], np.inf)
            expected = np.minimum(to_wall, to_floor)
            np.testing.assert_allclose(observation[name][i, 0], np.where(expected < 50, expected, 0), rtol=1e-3)


@pytest.mark.parametrize("level", ["boxes", "two_walls"])
def test_both_renderers_agree_on_a_randomized_world(level):
    images = []
    for renderer in ("egl", "rays"):
        env = NavigationVectorEnv(8, level=level, renderer=renderer, randomization=RANGES)
        env.reset(seed=5)
        for _ in range(4):
            observation = env.step(np.tile([-0.5, 0.4], (8, 1)))[0]
        images.append(observation["depth"])
        env.close()
    difference = np.abs(images[0] - images[1])
    assert np.median(difference) <= 1e-4
    assert (difference > 0.01).mean() < 2e-3  # pixels on an edge fall on either side of it
    assert (images[0] > 0).mean() > 0.5


def test_a_camera_that_sticks_out_collides_before_it_is_inside_a_wall():
    ranges = {"camera_position_m": (-0.1, 0.1)}
    env = NavigationVectorEnv(32, level="open", autoreset_mode="Disabled", randomization=ranges)
    env.reset(seed=0)
    ahead = env._camera_pos[:, 0].copy()
    assert (ahead > 0.225).any()
    env._qpos[:, 2] = 0
    env._qpos[:, 0] = env.level.bounds[2] - 0.225  # facing the wall, the hull 2.5 cm away
    stopped = np.tile([-1.0, 0.0], (32, 1))
    collided = env.step(stopped)[2]
    np.testing.assert_array_equal(collided, ahead > 0.225)
    env.close()


# Latency


def episodes(env, num_steps, actions=None):
    """Plays with same-step autoreset; the observations of every episode of environment 0, in order, the last included."""
    found = [[one(env.reset(seed=4)[0])]]
    for k in range(num_steps):
        action = np.zeros((env.num_envs, 1)) if actions is None else np.full((env.num_envs, 1), actions[k])
        observation, _, terminated, truncated, info = env.step(action)
        if terminated[0] or truncated[0]:
            found[-1].append(info["final_obs"][0])
            found.append([])
        found[-1].append(one(observation))
    return found


def one(observation):
    return {name: value[0].copy() for name, value in observation.items()}


@pytest.mark.parametrize("delay", [1, 3, 6])
def test_depth_arrives_late_by_whole_steps_and_never_from_another_episode(make, delay):
    names = ("depth", "tilted_depth", "state")
    prompt = episodes(make(2, observations=names, max_episode_steps=5), 16)
    late_env = make(2, fixed(depth_latency_s=delay * STEP_S + 0.03), observations=names, max_episode_steps=5)
    late = episodes(late_env, 16)
    np.testing.assert_allclose(late_env.randomized["depth_latency_s"], delay * STEP_S)
    assert [len(frames) for frames in late] == [6, 6, 6, 2]
    for prompt_frames, late_frames in zip(prompt, late, strict=True):
        for k, frame in enumerate(late_frames):
            np.testing.assert_array_equal(frame["state"], prompt_frames[k]["state"])
            for name in ("depth", "tilted_depth"):
                np.testing.assert_array_equal(frame[name], prompt_frames[max(k - delay, 0)][name])
        assert len({frame["depth"].tobytes() for frame in prompt_frames}) == len(prompt_frames)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_late_depth_begins_anew_in_every_autoreset_mode(make, mode):
    env = make(2, fixed(depth_latency_s=2 * STEP_S), observations=("depth",), max_episode_steps=4, autoreset_mode=mode)
    begun = env.reset(seed=0)[0]["depth"]
    for _ in range(4):
        last = env.step(np.zeros((2, 1)))[0]["depth"]
    assert (last < begun).all()
    if mode is AutoresetMode.NEXT_STEP:
        first = env.step(np.zeros((2, 1)))[0]["depth"]
    else:
        first = env.reset()[0]["depth"]
    np.testing.assert_allclose(first[:, 0, 6, 12], WALL_X_M - env._qpos[:, 0], rtol=1e-3)
    np.testing.assert_array_equal(env.step(np.zeros((2, 1)))[0]["depth"], first)


def test_a_masked_reset_leaves_the_late_depth_of_others_alone(make):
    settings = {"observations": ("depth",), "autoreset_mode": "Disabled"}
    disturbed, left_alone = (make(2, fixed(depth_latency_s=2 * STEP_S), **settings) for _ in range(2))
    for env in (disturbed, left_alone):
        env.reset(seed=0)
    for _ in range(5):
        for _ in range(3):
            disturbed.reset(options={"reset_mask": np.array([True, False])})
        seen, expected = (env.step(np.zeros((2, 1)))[0]["depth"][1] for env in (disturbed, left_alone))
        np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_commands_take_effect_late_by_whole_steps(make, delay):
    commands = np.linspace(1, 2, 16)
    env = make(2, fixed(action_latency_s=delay * STEP_S), max_episode_steps=5)
    if not delay:
        assert env._coming is None
    k = 0
    for episode in episodes(env, 16, commands):
        given = commands[k : k + len(episode) - 1]
        acted = [*[-3.0] * delay, *given][: len(given)]  # what the task does while nothing is commanded
        states = np.array([observation["state"] for observation in episode])
        np.testing.assert_allclose(states[1:, 2], given, rtol=1e-6)
        np.testing.assert_allclose(states[1:, 3], acted, rtol=1e-6)
        np.testing.assert_allclose(np.diff(states[:, 1]), np.array(acted) / MASS_KG * STEP_S, rtol=1e-3)
        k += len(given)


def test_a_rover_stands_until_its_first_command_arrives():
    late = NavigationVectorEnv(2, level="open", observations=("state",), randomization=fixed(action_latency_s=0.6))
    late.reset(seed=0)
    speeds = [late.step(np.tile([1.0, 0.0], (2, 1)))[0]["state"] for _ in range(4)]
    np.testing.assert_allclose(np.array(speeds)[:3, :, 3], 0, atol=1e-9)
    assert (speeds[3][:, 3] > 1.0).all()
    np.testing.assert_array_equal(speeds[0][:, 6], 1.0)  # the state has what was commanded
    late.close()


# Settings


def test_named_ranges_are_those_of_the_simulated_sensors():
    for name, mounting in MOUNTINGS.items():
        ranges = RANDOMIZATIONS[name]
        assert ranges.camera_position_m == (-mounting.position_m, mounting.position_m)
        assert ranges.camera_angle_deg == (-mounting.angle_deg, mounting.angle_deg)


def test_a_configuration_files_lists_and_names_are_welcome():
    assert Randomization.of({"mass_scale": [1, 2], "friction_scale": None}) == Randomization(mass_scale=(1.0, 2.0))
    assert Randomization.of("navigation") is RANDOMIZATIONS["navigation"]
    assert Randomization.of(None) == Randomization() == RANDOMIZATIONS["none"]
    assert [field.name for field in dataclasses.fields(Randomization)] == list(NAMES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"mass_scale": (2.0, 1.0)}, "low <= high"),
        ({"mass_scale": (0.0, 1.0)}, "mass_scale must be positive"),
        ({"friction_scale": 1.0}, "must be a range"),
        ({"friction_scale": "ab"}, "must be a range"),
        ({"camera_angle_deg": (0.0, 1.0, 2.0)}, "must be a range"),
        ({"camera_position_m": (-np.inf, 0.1)}, "finite"),
        ({"action_latency_s": (-0.1, 0.1)}, "0 <= latency < 2 s"),
        ({"depth_latency_s": (0.0, 2.0)}, "0 <= latency < 2 s"),
        ({"mas_scale": (1.0, 2.0)}, "unknown randomization 'mas_scale', did you mean 'mass_scale'"),
        ("navigaton", "did you mean 'navigation'"),
    ],
)
def test_bad_ranges_are_errors_that_say_what_is_wrong(setting, message):
    with pytest.raises(ValueError, match=message):
        Randomization.of(setting)


def test_what_a_model_cannot_do_is_an_error(make):
    with pytest.raises(ValueError, match="must stay below 180"):
        make(randomization=fixed(camera_fov_scale=4.5))
    with pytest.raises(ValueError, match=r"\['flexor'\] are of other kinds"):
        make(
            randomization=fixed(motor_strength_scale=1.1),
            xml='<muscle name="flexor" joint="x" lengthrange="0 1" ctrllimited="true" ctrlrange="0 1"/>',
        )
