"""The vector wrappers, in every autoreset mode."""

import numpy as np
import pytest
import torch
from fake_envs import ENCODER, IMAGE, vector_env
from gymnasium.vector import AutoresetMode, VectorObservationWrapper

from defm_rl import DepthEncoder, normalize_depth
from defm_rl.gymnasium import EncodeDepth, NormalizeDepth, SimulateSensor

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
