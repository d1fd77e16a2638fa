"""What the terms of both simulators share, on a scene of numbers: simulated sensors, sharing, resets, errors."""

import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from defm_rl import DepthEncoder
from defm_rl.depth import ScaleWarning
from defm_rl.sensors import SimulatedCamera
from defm_rl.terms.cameras import SceneCamera
from defm_rl.terms.sharing import SharedDepth
from defm_rl.terms.terms import DepthTerm, FeaturesTerm

NUM_ENVS, IMAGE, STEP_S = 3, (32, 32), 0.1
ENCODER = {"encoder": "defm_efficientnet_b0", "weights": "random"}


class Camera(SceneCamera):
    @property
    def image_size(self):
        return IMAGE

    def _choose_data_type(self, name, asked, where):
        return "depth"

    def _image(self):
        return self._sensor.depth


class Features(FeaturesTerm):
    camera_class = Camera


class Depth(DepthTerm):
    camera_class = Camera


class Scene:
    """An environment whose camera shows whatever it is told to."""

    num_envs, device, step_dt = NUM_ENVS, "cpu", STEP_S

    def __init__(self):
        self.common_step_counter = self._sim_step_counter = 0
        self.depth = torch.ones(NUM_ENVS, *IMAGE)
        self.scene = SimpleNamespace(sensors={"camera": self})

    def show(self, depth_m):
        """One step, after which the camera shows these depths, one an environment."""
        self.common_step_counter += 1
        ramp = torch.linspace(0.0, 0.01, math.prod(IMAGE)).reshape(IMAGE)
        self.depth = torch.as_tensor(depth_m).expand(NUM_ENVS)[:, None, None] + ramp


@pytest.fixture
def env():
    return Scene()


def make(env, term=Depth, **params):
    if term is Depth:
        params = {"normalize": False, "channel_axis": False, **params}
    return term(params, env, "observations.depth")


def test_a_term_gives_what_a_simulated_camera_measures(env):
    term = make(env, sensor_model="stereo", sensor_seed=7)
    camera = SimulatedCamera("stereo", NUM_ENVS, step_s=STEP_S, seed=7)
    camera.reset()
    for step in range(4):
        env.show(1.0 + 0.1 * step)
        torch.testing.assert_close(term(env), camera(env.depth), atol=0, rtol=0)
    assert not torch.equal(term(env)[0], term(env)[1])  # of the same wall: random numbers are each environment's own


def test_features_are_of_what_the_sensor_measures_and_encoded_once(env):
    features, again = (make(env, Features, sensor_model="stereo", **ENCODER) for _ in range(2))
    image = make(env, sensor_model="stereo")
    ideal = make(env, Features, **ENCODER)
    env.show(1.0)
    seen = features(env)
    torch.testing.assert_close(seen, DepthEncoder(**ENCODER).encode(image(env)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(again(env), seen, atol=0, rtol=0)
    assert features.encoded is again.encoded
    assert features.encoded.encodings == 1
    assert not torch.equal(ideal(env), seen)


def test_within_one_step_a_sensor_measures_once(env):
    term = make(env, sensor_model="stereo")
    env.show(1.0)
    first = term(env)
    first.zero_()  # whoever is given the images may write into them
    second = term(env)
    torch.testing.assert_close(term(env), second, atol=0, rtol=0)
    env.show(1.0)
    assert not torch.equal(term(env), second)


def ages(term, env, steps, begins=lambda step: None):
    """How many steps old each environment's image is, over steps in which depth grows by a centimetre."""
    seen = []
    for step in range(steps):
        env.show(0.5 + 0.01 * step)
        if (begun := begins(step)) is not None:
            term.reset(torch.tensor(begun))
        seen.append(step - ((term(env)[:, 0, 0] - 0.5) / 0.01).round().int())
    return torch.stack(seen)


def test_latency_and_frame_rate_are_in_seconds_of_the_tasks_steps(env):
    late = ages(make(env, sensor_model="realsense_parkour_without_noise"), env, 12)
    assert late[0].tolist() == [0, 0, 0]  # the first image of an episode is there at once
    # 0.20 to 0.26 s, and images every 0.1 s, which is every step.
    assert set(late[4:].flatten().tolist()) <= {2, 3}
    env.step_dt = 0.05
    env.scene.sensors = {"camera": env}
    fast = make(env, sensor_model="realsense_parkour_without_noise", sensor_seed=1)
    assert set(ages(fast, env, 20)[8:].flatten().tolist()) <= {4, 5, 6, 7}


def test_a_partial_reset_begins_those_episodes_and_no_others(env):
    begun = make(env, sensor_model="realsense_parkour_without_noise", sensor_seed=2)
    late = ages(begun, env, 12, lambda step: [1] if step == 6 else None)
    assert late[6, 1] == 0
    assert (late[6, [0, 2]] >= 2).all()
    assert late[9, 1] >= 2


def test_environments_that_begin_within_a_step_are_measured_anew_and_the_others_are_not(env):
    term = make(env, sensor_model="stereo")
    env.show(1.0)
    before = term(env)
    env.depth = env.depth.clone()
    env.depth[1] = 2.0
    term.reset(torch.tensor([1], dtype=torch.int32))
    after = term(env)
    torch.testing.assert_close(after[[0, 2]], before[[0, 2]], atol=0, rtol=0)
    assert after[1].max() > 1.5


def test_noise_follows_the_numbers_of_episodes_where_there_are_any(env):
    numbers = torch.tensor([5, 6, 7])
    SharedDepth.of(env).episodes = lambda: numbers
    term = make(env, sensor_model="stereo")
    env.show(1.0)
    first = term(env)
    numbers[:] = torch.tensor([7, 5, -1])
    term.reset()
    env.show(1.0)
    second = term(env)
    torch.testing.assert_close(second[0], first[2], atol=0, rtol=0)
    torch.testing.assert_close(second[1], first[0], atol=0, rtol=0)
    assert not any(torch.equal(second[2], image) for image in first)  # one without a number has noise of its own


def test_no_two_episodes_have_the_same_noise_where_they_have_no_numbers(env):
    term = make(env, sensor_model="stereo")
    env.show(1.0)
    first = term(env)
    term.reset()
    env.show(1.0)
    assert not torch.equal(term(env), first)


def test_a_sensor_works_in_inference_mode_and_outside_it(env):
    term = make(env, sensor_model="realsense_parkour", latency_steps=1)
    with torch.inference_mode():
        term(env)
    env.show(1.0)
    term.reset(torch.tensor([1]))
    seen = term(env)
    assert not seen.is_inference()
    with torch.inference_mode():
        env.show(1.0)
        term.reset(slice(None))
        term(env)


def test_latency_steps_come_on_top_of_the_sensors_latency(env):
    late = ages(make(env, sensor_model="realsense_parkour_without_noise", latency_steps=2), env, 12)
    assert set(late[8:].flatten().tolist()) <= {4, 5}


def test_an_unknown_sensor_is_an_error_that_names_the_key_and_the_right_one(env):
    message = r"observations\.depth\.sensor_model: unknown sensor 'sterio': did you mean 'stereo'"
    for term, settings in ((Depth, {}), (Features, ENCODER)):
        with pytest.raises(ValueError, match=message):
            make(env, term, sensor_model="sterio", **settings)


@pytest.mark.parametrize(("limit_m", "warns"), [(math.inf, True), (2.0, True), (1.0, False)])
def test_a_camera_that_is_said_to_see_a_metre_far_may_see_no_farther(env, limit_m, warns):
    term = make(env, max_depth_m=limit_m)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(100):  # of three environments: more than the 256 frames that the monitor waits for
            env.show(0.5)
            term(env)
    assert any(issubclass(warning.category, ScaleWarning) for warning in caught) == warns


def test_ideal_is_the_renderers_depth_and_costs_nothing(env):
    term = make(env)
    env.show(1.0)
    torch.testing.assert_close(term(env), env.depth, atol=0, rtol=0)
    assert term.camera.step is None  # nothing is simulated, and nothing is kept
