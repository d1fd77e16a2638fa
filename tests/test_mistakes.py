"""Twenty mistakes of a newcomer: each error says what to do."""

import contextlib
import re

import gymnasium
import numpy as np
import pytest
import torch
from fake_envs import ENCODER, vec_env, vector_env
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

from defm_rl import DepthEncoder, cli, load_encoder, normalize_depth
from defm_rl.gymnasium import EncodeDepth
from defm_rl.sb3 import DefmExtractor, FeatureProjection, VecEncodeDepth
from defm_rl.sensors import simulate

DEPTH = np.full((2, 48, 96), 2.0, np.float32)
SMALL = {"n_steps": 4, "batch_size": 4}


def ppo(env, extractor, **kwargs):
    return PPO(
        "MultiInputPolicy",
        env,
        policy_kwargs={"features_extractor_class": extractor, "features_extractor_kwargs": kwargs},
        **SMALL,
    )


IN_PYTHON = {
    "millimetres without a unit": (
        lambda: normalize_depth((DEPTH * 1000).astype(np.uint16)),
        "pass unit='mm' if these are millimetres",
    ),
    "a picture made for display": (
        lambda: normalize_depth(DEPTH.astype(np.uint8), unit="mm"),
        "the camera's own depth",
    ),
    "depth along -z": (lambda: normalize_depth(-DEPTH), "flip the sign"),
    "colours": (lambda: normalize_depth(np.zeros((2, 3, 48, 96), np.float32)), "depth must have one channel"),
    "an encoder's name misspelt": (lambda: load_encoder("defm_resnet81", "random"), "did you mean|Did you mean"),
    "a map that the encoder does not have": (
        lambda: DepthEncoder("defm_vit_s14", weights="random", features="P4"),
        "must be one or more of global, P14",
    ),
    "a pool that depends on the size": (
        lambda: DepthEncoder("defm_resnet18", weights="random", features="P4", pool="columns"),
        r"pass image_size=\(height, width\)",
    ),
    "weights that are not there": (
        lambda: load_encoder("defm_resnet18", "weights/defm.pth"),
        'weights must be "hub", "random" or the path of a file',
    ),
    "images of any size for a bare network": (
        lambda: load_encoder("defm_resnet18", "random")(torch.zeros(1, 3, 50, 70)),
        "pad_to=32",
    ),
    "a single environment": (
        lambda: EncodeDepth(gymnasium.make("CartPole-v1"), **ENCODER),
        "takes a vector environment",
    ),
    "gymnasium's environment for Stable-Baselines3": (
        lambda: VecEncodeDepth(vector_env(), **ENCODER),
        "GymnasiumVecEnv",
    ),
    "Stable-Baselines3's environment for gymnasium": (lambda: EncodeDepth(vec_env(), **ENCODER), "VecEncodeDepth"),
    "fine-tuning around the environment": (
        lambda: VecEncodeDepth(vec_env(), trainable="all", **ENCODER),
        "train it inside the policy",
    ),
    "FeatureProjection without features": (lambda: ppo(vec_env(), FeatureProjection), "VecEncodeDepth"),
    "an encoder in policy_kwargs": (
        lambda: ppo(vec_env(), DefmExtractor, encoder=DepthEncoder(**ENCODER)),
        "Pass the encoder's name",
    ),
    "depth that VecNormalize has standardised": (
        lambda: VecEncodeDepth(VecNormalize(vec_env()), **ENCODER),
        "Leave it out there",
    ),
    "a sensor misspelt": (lambda: simulate(DEPTH, "sterio"), "did you mean 'stereo'"),
}

TYPED = {
    "a command misspelt": (["trian"], "did you mean 'train'?"),
    "a key misspelt": (["train", "experiment=quickstart", "algo.lr=1e-3"], "Did you mean 'algo.learning_rate'"),
    "an option misspelt": (["train", "experiment=quikstart"], "Did you mean 'quickstart'"),
    "a space around =": (["train", "seed", "=", "1"], "is not of the form key=value"),
    "DATE left as it stands": (["evaluate", "runs/quickstart/DATE"], "expected the folder that `defm-rl train` made"),
    "no camera to adapt to": (["adapt", "runs/quickstart/DATE"], r"sensors=\[stereo\]"),
    "a student without a teacher": (["train", "experiment=locomotion_student"], "teacher=RUN"),
    "no run to export": (["export"], "expected RUN, got nothing"),
}


@pytest.mark.parametrize("mistake", IN_PYTHON)
def test_python_says_what_to_do(mistake, untraced):
    make, says = IN_PYTHON[mistake]
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=says):
        make()


SLOW = ("a student without a teacher", "a key misspelt")


@pytest.mark.parametrize(
    "mistake", [pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name for name in TYPED]
)
def test_commands_say_what_to_do(mistake, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    arguments, says = TYPED[mistake]
    with pytest.raises(SystemExit) if mistake == "a command misspelt" else contextlib.nullcontext():
        assert cli.main(arguments) != 0
    assert re.search(says, capfd.readouterr().err)
    assert not list(tmp_path.iterdir())  # nothing was begun
