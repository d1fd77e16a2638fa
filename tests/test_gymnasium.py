"""The vector wrappers, in every autoreset mode."""

import gymnasium
import numpy as np
import pytest
import torch
from fake_envs import ENCODER, IMAGE, DeviceTensor, TensorVectorEnv, vector_env
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorObservationWrapper
from gymnasium.wrappers import vector as wrappers

from defm_rl import DepthEncoder, normalize_depth
from defm_rl.gymnasium import EncodeDepth, NormalizeDepth, SimulateSensor
from defm_rl.observations import leaves
from defm_rl.sensors import make_sensor

MODES = list(AutoresetMode)


@pytest.fixture(scope="module")
def encoder():
    return DepthEncoder(**ENCODER)


def steps(env, count, seed=0):
    """Observations, final observations and infos of some steps; resets where the environments do not."""
    yield env.reset(seed=seed)[0], {}
    for _ in range(count):
        observations, _, terminated, truncated, infos = env.step(env.action_space.sample() * 0)
        yield observations, infos
        ended = np.logical_or(terminated, truncated)
        if env.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            yield env.reset(options={"reset_mask": ended})[0], {}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("box", [False, True])
def test_features_take_the_place_of_depth_in_every_autoreset_mode(encoder, mode, box):
    raw = steps(vector_env(mode=mode, box=box, episode_steps=2), 5)
    env = EncodeDepth(vector_env(mode=mode, box=box, episode_steps=2), encoder)
    finals = 0
    for (before, infos_before), (after, infos_after) in zip(raw, steps(env, 5), strict=True):
        assert env.observation_space.contains(after)
        pairs = [(before, after)]
        if "final_obs" in infos_before:
            for last_before, last_after in zip(infos_before["final_obs"], infos_after["final_obs"], strict=True):
                assert env.single_observation_space.contains(last_after)
                pairs.append(
                    tuple({k: v[None] for k, v in x.items()} if not box else x[None] for x in (last_before, last_after))
                )
                finals += 1
        for x, y in pairs:
            features = encoder.encode(x if box else x["depth"]).numpy()
            np.testing.assert_allclose(y if box else y["depth"], features, rtol=1e-3, atol=2e-3)
            if not box:
                np.testing.assert_array_equal(x["state"], y["state"])
    assert finals == (4 if mode == AutoresetMode.SAME_STEP else 0)


def test_only_environments_that_ended_have_a_final_observation(encoder):
    inner = vector_env(num_envs=3, episode_steps=4)
    env = EncodeDepth(inner, encoder)
    env.reset(seed=0)
    inner.envs[1].unwrapped.steps = 3
    _, _, _, _, infos = env.step(np.zeros((3, 2)))
    assert [last is not None for last in infos["final_obs"]] == [False, True, False]
    assert infos["final_obs"][1]["depth"].dtype == np.float16


@pytest.mark.parametrize("mode", MODES)
def test_normalized_channels_take_the_place_of_depth_in_every_autoreset_mode(mode):
    raw = steps(vector_env(mode=mode, episode_steps=2), 3)
    env = NormalizeDepth(vector_env(mode=mode, episode_steps=2), dtype=np.float32)
    assert env.single_observation_space["depth"].shape == (3, *IMAGE)
    for (before, infos_before), (after, infos_after) in zip(raw, steps(env, 3), strict=True):
        assert env.observation_space.contains(after)
        torch.testing.assert_close(torch.from_numpy(after["depth"]), normalize_depth(before["depth"]))
        for index, last in enumerate(infos_before.get("final_obs", [])):
            channels = normalize_depth(last["depth"])[0]
            torch.testing.assert_close(torch.from_numpy(infos_after["final_obs"][index]["depth"]), channels)


def test_observations_are_fresh_arrays(encoder):
    env = EncodeDepth(vector_env(), encoder)
    first = env.reset(seed=0)[0]["depth"]
    kept = first.copy()
    env.step(np.zeros((2, 2)))
    np.testing.assert_array_equal(first, kept)


@pytest.mark.parametrize(
    "behind",
    [
        wrappers.FlattenObservation,
        lambda env: wrappers.DtypeObservation(env, np.float32),
        lambda env: wrappers.ReshapeObservation(env, (2, 220)),
        wrappers.RecordEpisodeStatistics,
    ],
)
@pytest.mark.sweep(2)
def test_spaces_behind_other_wrappers_tell_encoders_apart(encoder, behind):
    def space(encoder):
        env = behind(EncodeDepth(vector_env(box=True, mode=AutoresetMode.NEXT_STEP), encoder))
        return env.single_observation_space

    assert space(encoder) == space(DepthEncoder(**ENCODER))
    assert space(encoder) != space(DepthEncoder(**ENCODER, seed=1))


def test_settings_of_an_encoder_that_is_made_already_are_refused(encoder):
    with pytest.raises(ValueError, match="too late: pool"):
        EncodeDepth(vector_env(), encoder, pool="mean")


@pytest.mark.parametrize("wrap", [EncodeDepth, NormalizeDepth, SimulateSensor])
def test_a_frame_without_a_valid_pixel_is_one_of_holes(encoder, wrap):
    """Cameras write -1 where they see nothing, and a robot that stands before a wall sees nothing at all."""

    class Blinded(VectorObservationWrapper):
        def observations(self, observations):
            return {**observations, "depth": np.full_like(observations["depth"], self.value)}

    env = Blinded(vector_env(episode_steps=99, mode=AutoresetMode.NEXT_STEP))
    settings = {"encoder": encoder} if wrap is EncodeDepth else {}
    wrapped = wrap(env, **settings)
    env.value = 0.0
    holes = wrapped.reset(seed=0)[0]["depth"]
    env.value = -1.0
    np.testing.assert_array_equal(wrapped.step(np.zeros((2, 2)))[0]["depth"], holes)


NESTED = "sensor_data/depth/depth"


def wrap(name, env, encoder, **settings):
    if name == "encode":
        return EncodeDepth(env, encoder, **settings)
    if name == "normalize":
        return NormalizeDepth(env, **settings)
    return SimulateSensor(env, make_sensor("stereo", delay_steps=(1, 1)), **settings)


def played(env, count=5):
    """All that is observed in some steps and at the ends of episodes, in order, as arrays by path."""
    seen = [env.reset(seed=0)[0]]
    action = np.zeros((2, 2)) if isinstance(leaves(seen[0]).popitem()[1], np.ndarray) else torch.zeros(2, 2)
    for _ in range(count):
        observations, _, _, _, infos = env.step(action)
        final = infos.get("final_observation", infos.get("final_obs"))
        if isinstance(final, dict):
            seen += [{path: x[i] for path, x in leaves(final).items()} for i in range(env.num_envs)]
        else:
            seen += [] if final is None else list(final)
        seen.append(observations)
    return [{path: as_array(x) for path, x in leaves(observation).items()} for observation in seen]


def as_array(x):
    return x.cpu().numpy() if isinstance(x, torch.Tensor) else x


def assert_same(some, others):
    for a, b in zip(some, others, strict=True):
        assert a.keys() == b.keys()
        for path in a:
            assert a[path].dtype == b[path].dtype
            np.testing.assert_array_equal(a[path], b[path])


@pytest.mark.parametrize("mode", MODES[:2])
@pytest.mark.parametrize("name", ["encode", "normalize", "simulate"])
def test_depth_in_nested_dicts_is_found_and_replaced_in_its_place(encoder, name, mode):
    flat = wrap(name, vector_env(mode=mode, episode_steps=2), encoder)
    nested = wrap(name, vector_env(mode=mode, episode_steps=2, nested=True), encoder)
    place = nested.single_observation_space["sensor_data"]["depth"]["depth"]
    assert place == flat.single_observation_space["depth"]
    assert nested.observation_space.contains(nested.reset(seed=0)[0])
    renamed = [{"depth": x[NESTED], "state": x["state"]} for x in played(nested)]
    assert_same(renamed, played(flat))
    by_path = wrap(
        name, vector_env(nested=True, cameras=("base", "hand")), encoder, depth_keys=["sensor_data/hand/depth"]
    )
    cameras = by_path.single_observation_space["sensor_data"]
    assert cameras["base"]["depth"] == vector_env().single_observation_space["depth"]
    assert (cameras["hand"]["depth"] != cameras["base"]["depth"]) == (name != "simulate")


def test_keys_with_slashes_of_a_flat_dict_are_keys(encoder):
    env = EncodeDepth(vector_env(cameras=("front/depth", "rear/depth")), encoder, depth_keys=["rear/depth"])
    observations, _ = env.reset(seed=0)
    assert env.observation_space.contains(observations)
    assert observations["rear/depth"].shape == (2, encoder.feature_dim)
    assert observations["front/depth"].shape == (2, 1, *IMAGE)


@pytest.mark.parametrize("name", ["encode", "normalize", "simulate"])
@pytest.mark.parametrize("settings", [{}, {"nested": True}, {"box": True}], ids=["flat", "nested", "box"])
def test_tensors_stay_tensors_and_hold_what_arrays_hold(encoder, name, settings):
    make = lambda: vector_env(episode_steps=2, **settings)  # noqa: E731
    ours = wrap(name, TensorVectorEnv(make()), encoder)
    observations, *_ = ours.reset(seed=0)
    assert all(isinstance(x, torch.Tensor) for x in leaves(observations).values())
    assert ours.single_observation_space == wrap(name, make(), encoder).single_observation_space
    arrays = played(wrap(name, make(), encoder))
    assert_same(played(ours), arrays)
    if not settings.get("box"):
        assert isinstance(observations["state"], DeviceTensor)
    assert_same(played(wrap(name, TensorVectorEnv(make(), batch=False), encoder)), arrays)


def test_tensors_of_millimetres_stay_integers():
    make = lambda: vector_env(millimetres=True, episode_steps=2)  # noqa: E731
    arrays = played(SimulateSensor(make(), unit="mm"))
    assert arrays[0]["depth"].dtype == np.uint16
    assert_same(played(SimulateSensor(TensorVectorEnv(make()), unit="mm")), arrays)


@pytest.mark.parametrize("name", ["encode", "normalize", "simulate"])
def test_what_is_no_depth_passes_as_it_is(encoder, name):
    """Tuples, texts, binaries, and keys that are no strings."""
    space = spaces.Dict(
        {
            0: spaces.Box(0.0, 100.0, (1, *IMAGE), np.float32),
            1: spaces.Dict(pose=spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(3)])),
            2: spaces.MultiBinary(4),
            3: spaces.Text(5),
        }
    )

    class Odd(gymnasium.Env):
        observation_space, action_space = space, spaces.Box(-1.0, 1.0, (2,))

        def reset(self, *, seed=None, options=None):
            if seed is not None:
                self.observation_space.seed(seed)
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, True, {}

    def make():
        return SyncVectorEnv([Odd] * 2, autoreset_mode=AutoresetMode.SAME_STEP)

    raw, env = make(), wrap(name, make(), encoder)
    for before, after in zip(
        [raw.reset(seed=0)[0], raw.step(np.zeros((2, 2)))[4]["final_obs"][1]],
        [env.reset(seed=0)[0], env.step(np.zeros((2, 2)))[4]["final_obs"][1]],
        strict=True,
    ):
        assert list(after) == [0, 1, 2, 3]
        assert after[0].dtype == env.single_observation_space[0].dtype
        np.testing.assert_equal({k: after[k] for k in (1, 2, 3)}, {k: before[k] for k in (1, 2, 3)})


def test_environments_outside_of_a_batch_of_last_observations_have_the_present_one(encoder):
    inner = vector_env(num_envs=3, episode_steps=4)
    env = EncodeDepth(TensorVectorEnv(inner), encoder)
    env.reset(seed=0)
    inner.envs[1].unwrapped.steps = 3
    observations, *_, infos = env.step(torch.zeros(3, 2))
    differs = (infos["final_observation"]["depth"] != observations["depth"]).any(1)
    assert differs.tolist() == [False, True, False]


@pytest.mark.parametrize(
    "options", [{"env_idx": torch.tensor([1])}, {"reset_mask": torch.tensor([False, True, False])}]
)
def test_some_environments_are_reset_by_tensors(options):
    """As ManiSkill's are, whose options name `env_idx`."""
    env = SimulateSensor(TensorVectorEnv(vector_env(num_envs=3, mode=AutoresetMode.DISABLED)), "stereo")
    env.reset(seed=0)
    before = env.step(torch.zeros(3, 2))[0]["depth"]
    after = env.reset(options=options)[0]["depth"]
    assert (before != after).flatten(1).any(1).tolist() == [False, True, False]


@pytest.mark.parametrize(
    "number",
    [7, 7.0, "seven", None, [7, 8], np.array(7), np.arange(3), np.array([7, None]), {"a": 7}, torch.full((2,), 0.5)],
    ids=str,
)
def test_whatever_infos_call_a_layouts_seed_does_no_harm(number):
    """Integers, one for each environment, number the episodes; anything else does not."""

    class Telling(VectorObservationWrapper):
        def observations(self, observations):
            return observations

        def reset(self, *, seed=None, options=None):
            observations, infos = self.env.reset(seed=seed, options=options)
            return observations, {**infos, "layout_seed": number}

    env = Telling(vector_env(mode=AutoresetMode.NEXT_STEP))
    seen, expected = (SimulateSensor(each, "stereo").reset(seed=0) for each in (env, vector_env()))
    np.testing.assert_array_equal(seen[0]["depth"], expected[0]["depth"])
    assert seen[1]["layout_seed"] is number


def test_cameras_begin_anew_where_no_last_observations_are_given():
    """Same-step autoreset of simulators that do not keep them."""

    class Forgetful(VectorObservationWrapper):
        def __init__(self, env):
            VectorEnv.__init__(self)
            self.env = env

        def step(self, actions):
            *rest, infos = self.env.step(actions)
            return *rest, {key: value for key, value in infos.items() if "final" not in key}

    def shown(env):
        return [env.reset(seed=0)[0]["depth"], *(env.step(np.zeros((2, 2)))[0]["depth"] for _ in range(4))]

    late = make_sensor("ideal", delay_steps=(1, 1))
    seen, real = shown(SimulateSensor(vector_env(episode_steps=2), late)), shown(vector_env(episode_steps=2))
    np.testing.assert_array_equal(seen[2], real[2])
    np.testing.assert_array_equal(seen[3], real[2])


@pytest.mark.parametrize("wrap", [lambda env, net: EncodeDepth(env, net), lambda env, _: SimulateSensor(env, "zedx")])
def test_what_a_trainer_began_in_inference_mode_goes_on_outside(encoder, wrap):
    env = wrap(vector_env(episode_steps=2), encoder)
    with torch.inference_mode():
        for _ in steps(env, 3):
            pass
    assert all(env.observation_space.contains(observations) for observations, _ in steps(env, 3))
