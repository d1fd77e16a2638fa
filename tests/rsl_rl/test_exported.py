"""RSL-RL's own exporters, which Isaac Lab's and mjlab's play scripts call, take a policy that sees."""

import numpy as np
import onnxruntime
import pytest
import torch
from runs import ENCODER, ENVS, environment, ppo
from tensordict import TensorDict

LSTM, GRU = ({"rnn_type": kind, "rnn_hidden_dim": 6} for kind in ("lstm", "gru"))
CASES = {
    "features-lstm": (True, ("depth", "state"), {"obs_normalization": True, **LSTM}),
    "features-alone": (True, ("depth",), {}),
    "encoder-inside-gru": (False, ("depth", "state"), {"encoder": {**ENCODER, "trainable": ["block2"]}, **GRU}),
    "vectors-gru": (True, ("state",), GRU),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES)
def exported(request, tmp_path_factory):
    """A model that has seen a rollout, its actions over a few steps, and the folder of what was exported of it."""
    encoded, groups, settings = request.param
    env = environment(encoded)
    runner = ppo(env, groups=groups, **settings)
    runner.learn(1)  # statistics, weights, and a recurrent state that hangs on a graph
    folder = tmp_path_factory.mktemp("exported")
    runner.export_policy_to_jit(path=str(folder))
    runner.export_policy_to_onnx(path=str(folder))
    model = runner.alg.actor.eval()
    model.reset()
    seen, actions = [], []
    obs = env.get_observations()
    for _ in range(3):
        seen.append({group: obs[group][:1].float() for group in groups})
        with torch.inference_mode():
            actions.append(model(TensorDict(seen[-1], batch_size=[1])).numpy())
        obs = env.step(torch.zeros(ENVS, env.num_actions))[0]
    return folder, seen, actions


@pytest.mark.slow
def test_torchscript_acts_as_the_model_does(exported):
    folder, seen, actions = exported
    policy = torch.jit.load(folder / "policy.pt")
    for _ in range(2):
        policy.reset()
        for obs, expected in zip(seen, actions, strict=True):
            images = [obs["depth"]] if "depth" in obs else []
            got = policy(obs.get("state", torch.zeros(1, 0)), images)
            np.testing.assert_allclose(got.numpy(), expected, atol=1e-4)


def test_onnx_acts_as_the_model_does_with_named_inputs(exported):
    folder, seen, actions = exported
    session = onnxruntime.InferenceSession(folder / "policy.onnx", providers=["CPUExecutionProvider"])
    shapes = {x.name: x.shape for x in session.get_inputs()}
    states = {name: np.zeros(shape, np.float32) for name, shape in shapes.items() if name in ("h_in", "c_in")}
    for obs, expected in zip(seen, actions, strict=True):
        named = {{"state": "obs"}.get(group, group): x.numpy() for group, x in obs.items()}
        assert set(shapes) == {*named, *states}
        got, *after = session.run(None, {**named, **states})
        states = dict(zip(states, after, strict=True))
        np.testing.assert_allclose(got, expected, atol=1e-4)
