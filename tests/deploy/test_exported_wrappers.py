"""What stands between environments and policy is in the graph, or is refused: never left out in silence."""

import numpy as np
import pytest
import torch
from fake_envs import vec_env, vector_env
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorObservationWrapper
from gymnasium.wrappers import vector
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from defm_rl import DepthEncoder
from defm_rl.deploy import sb3
from defm_rl.deploy.policies import ExportError
from defm_rl.deploy.wrappers import encoding_in
from defm_rl.gymnasium import EncodeDepth, NormalizeDepth
from defm_rl.sb3 import (
    GymnasiumVecEnv,
    VecEncodeDepth,
    VecNormalizeDepth,
    VecNormalizeFeatures,
    VecSimulateSensor,
)

pytestmark = pytest.mark.usefixtures("untraced")


@pytest.fixture(scope="module")
def encoder():
    return DepthEncoder("defm_resnet18", weights="random", features="P3", bifpn=False, grid=(1, 2), compile="off")


def standardized(env):
    """With statistics of the state that change what a policy sees."""
    env = VecNormalize(env, norm_obs_keys=["state"], norm_reward=False, clip_obs=1.5)
    env.obs_rms["state"].mean[:], env.obs_rms["state"].var[:] = 5.0, 100.0
    return env


def model_on(env):
    return A2C("MultiInputPolicy", env, n_steps=4, device="cpu", seed=0, policy_kwargs={"net_arch": [8]})


def test_a_standardization_before_the_encoding_is_in_the_graph_and_learns_nothing_from_recording(encoder):
    inner = standardized(vec_env())
    env = VecNormalizeFeatures(VecEncodeDepth(inner, encoder), norm_obs_keys=["depth"], norm_reward=False)
    model = model_on(env)
    model.policy.action_net.weight.data *= 30
    whole = sb3.exportable(model)
    frame = {name: x * 20 if name == "state" else x for name, x in whole.record(3)[-1].items()}
    assert inner.obs_rms["state"].mean == pytest.approx([5.0] * 3)
    features = encoder.encode(torch.from_numpy(frame["depth"])).numpy()
    seen = env.normalize_obs({**inner.normalize_obs(frame), "depth": features})
    expected = model.predict(seen, deterministic=True)[0]
    with torch.no_grad():
        got = whole.graph()(*whole.inputs(frame))[0].numpy()
    assert got == pytest.approx(expected, abs=1e-4)
    assert whole.act(frame) == pytest.approx(expected, abs=1e-4)


def test_what_a_wrapper_hides_from_the_graph_is_refused(encoder):
    for env, message in [
        (VecEncodeDepth(VecSimulateSensor(standardized(vec_env())), encoder), "VecSimulateSensor stands between VecN"),
        (VecFrameStack(GymnasiumVecEnv(EncodeDepth(vector_env(), encoder)), 2), "VecFrameStack stands between EncodeD"),
        (VecNormalizeDepth(vec_env()), "VecNormalizeDepth makes channels of metric depth"),
        (VecFrameStack(VecNormalizeDepth(vec_env()), 2), "VecNormalizeDepth makes channels"),
        (GymnasiumVecEnv(NormalizeDepth(vector_env())), "NormalizeDepth makes channels of metric depth"),
    ]:
        with pytest.raises(ExportError, match=message):
            sb3._chain(env)
    assert sb3._chain(VecEncodeDepth(VecSimulateSensor(vec_env()), encoder))[0] == []


class Scaled(VectorObservationWrapper):
    """Of the same space, and other numbers."""

    def observations(self, observations):
        return {**observations, "state": observations["state"] / 2}


def test_wrappers_around_a_vector_environment_s_encoding_must_leave_the_robot_s_part_alone(encoder):
    encoded = EncodeDepth(vector_env(), encoder)
    next_step = EncodeDepth(vector_env(mode=AutoresetMode.NEXT_STEP), encoder)
    wide = spaces.Box(-10.0, 10.0, (2,), np.float32)
    for wrapper in (vector.RescaleAction(encoded, wide.low, wide.high), Scaled(next_step)):
        with pytest.raises(ExportError, match=rf"{type(wrapper).__name__} stands between EncodeDepth.*before the enc"):
            encoding_in(wrapper)
    assert encoding_in(vector.NormalizeReward(vector.RecordEpisodeStatistics(encoded))) is encoded
    assert encoding_in(vector.RescaleAction(vector_env(), wide.low, wide.high)) is None
    with pytest.raises(ExportError, match="encode all cameras by one"):
        encoding_in(EncodeDepth(EncodeDepth(vector_env(cameras=("a", "b")), encoder, depth_keys=["a"]), encoder))
