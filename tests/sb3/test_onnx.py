"""A policy with the encoder inside goes to ONNX as Stable-Baselines3's documentation does it, by both exporters."""

import numpy as np
import onnxruntime
import pytest
import torch
from fake_envs import ENCODER, PPO_SETTINGS, vec_env
from stable_baselines3 import PPO
from torch import nn

from defm_rl.sb3 import DefmExtractor

pytestmark = pytest.mark.usefixtures("untraced")


class Whole(nn.Module):
    def __init__(self, policy, networks_only):
        super().__init__()
        self.policy, self.networks_only = policy, networks_only

    def forward(self, depth, belly, state):
        observations = {"depth": depth, "belly": belly, "state": state}
        if not self.networks_only:
            return self.policy._predict(observations, deterministic=True)
        latent = self.policy.mlp_extractor.forward_actor(self.policy.extract_features(observations))
        return self.policy.action_net(latent)


@pytest.fixture(
    scope="module",
    params=["none", pytest.param(["block2"], marks=pytest.mark.slow)],
    ids=["frozen", "trained"],
)
def model(request):
    settings = {"features": "P3", "bifpn": False, "size": (24, 40), "latent_dim": 8, "trainable": request.param}
    kwargs = {**ENCODER, **settings, "depth_keys": ["depth", "belly"]}
    policy_kwargs = {"features_extractor_class": DefmExtractor, "features_extractor_kwargs": kwargs}
    model = PPO("MultiInputPolicy", vec_env(cameras=("depth", "belly")), policy_kwargs=policy_kwargs, **PPO_SETTINGS)
    model.policy.set_training_mode(False)
    return model


@pytest.mark.parametrize("dynamo", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["torchscript", "dynamo"])
def test_a_policy_that_sees_goes_to_onnx(model, dynamo, tmp_path):
    rng = np.random.default_rng(0)
    cameras = {key: rng.uniform(0, 9, (3, 1, 32, 32)).astype(np.float32) for key in ("depth", "belly")}
    observations = {**cameras, "state": rng.uniform(-1, 1, (3, 3)).astype(np.float32)}
    examples = tuple(torch.as_tensor(x[:2]) for x in observations.values())
    if dynamo:  # torch.export does not take the checks of a distribution's arguments
        batch = torch.export.Dim("batch")
        settings = {"dynamo": True, "dynamic_shapes": ({0: batch},) * 3}
    else:
        settings = {"dynamo": False, "opset_version": 18, "dynamic_axes": {key: {0: "batch"} for key in observations}}
    path = tmp_path / "policy.onnx"
    whole = Whole(model.policy, networks_only=dynamo).eval()
    torch.onnx.export(whole, examples, path, input_names=list(observations), **settings)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (got,) = session.run(None, observations)
    np.testing.assert_allclose(np.clip(got, -1, 1), model.predict(observations, deterministic=True)[0], atol=1e-4)
