"""Environments of the wrong interface are refused with the call that makes the right one."""

import gymnasium
import pytest
from fake_envs import ENCODER, DepthEnv, vec_env, vector_env
from gymnasium.vector import AutoresetMode

from defm_rl.gymnasium import EncodeDepth, NormalizeDepth, SimulateSensor
from defm_rl.rsl_rl import RslRlVecEnv
from defm_rl.sb3 import (
    GymnasiumVecEnv,
    VecEncodeDepth,
    VecNormalizeDepth,
    VecNormalizeFeatures,
    VecSimulateSensor,
)

OF_GYMNASIUM = [EncodeDepth, NormalizeDepth, SimulateSensor, GymnasiumVecEnv, RslRlVecEnv]
OF_SB3 = [VecEncodeDepth, VecNormalizeDepth, VecNormalizeFeatures, VecSimulateSensor]


def settings(wrapper):
    return ENCODER if wrapper in (EncodeDepth, VecEncodeDepth) else {}


class Batched(DepthEnv):
    """As the environments of ManiSkill and Isaac Lab: a batch behind the interface of a single one."""

    num_envs = 4


@pytest.mark.parametrize("wrapper", OF_GYMNASIUM)
@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (
            DepthEnv,
            r"single environment .* gymnasium\.make_vec\(id, num_envs=\.\.\.\), or .*SyncVectorEnv\(\[make_env\]",
        ),
        (Batched, "a batch of environments already"),
        (lambda: "CartPole-v1", r"not 'CartPole-v1'\. gymnasium\.make_vec"),
    ],
    ids=["single", "batch", "name"],
)
def test_wrappers_of_vector_environments_want_one(wrapper, make, advice):
    with pytest.raises(TypeError, match=advice) as refused:
        wrapper(make(), **settings(wrapper))
    assert str(refused.value).startswith(wrapper.__name__)
    assert ("SAME_STEP" in str(refused.value)) == (make is DepthEnv and wrapper in (GymnasiumVecEnv, RslRlVecEnv))


@pytest.mark.parametrize(
    ("wrapper", "advice"),
    [
        (EncodeDepth, r"defm_rl\.sb3\.VecEncodeDepth"),
        (NormalizeDepth, r"defm_rl\.sb3\.VecNormalizeDepth"),
        (SimulateSensor, r"defm_rl\.sb3\.VecSimulateSensor"),
        (GymnasiumVecEnv, "needs no adapter"),
        (RslRlVecEnv, r"gymnasium\.make_vec"),
    ],
)
def test_wrappers_of_vector_environments_know_sb3s(wrapper, advice):
    with pytest.raises(TypeError, match=f"not a VecEnv of Stable-Baselines3, DummyVecEnv.*{advice}"):
        wrapper(vec_env(), **settings(wrapper))


@pytest.mark.parametrize("wrapper", OF_SB3)
@pytest.mark.parametrize(
    ("make", "advice"),
    [
        (DepthEnv, r"single environment .* DummyVecEnv\(\[make_env\]\)"),
        (vector_env, r"SyncVectorEnv\. Pass defm_rl\.sb3\.GymnasiumVecEnv\(env\)"),
        (lambda: "CartPole-v1", r"make_vec_env\(id"),
    ],
    ids=["single", "vector", "name"],
)
def test_wrappers_for_sb3_want_its_interface(wrapper, make, advice):
    with pytest.raises(TypeError, match=advice) as refused:
        wrapper(make(), **settings(wrapper))
    assert str(refused.value).startswith(wrapper.__name__)


@pytest.mark.parametrize("wrapper", [GymnasiumVecEnv, RslRlVecEnv])
def test_environments_that_do_not_say_how_they_reset_can_be_told_to(wrapper):
    class Silent(gymnasium.vector.VectorWrapper):
        metadata = {}

    env = Silent(vector_env())
    with pytest.raises(ValueError, match="does not say how it resets"):
        wrapper(env)
    env.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
    assert wrapper(env).num_envs == 2
