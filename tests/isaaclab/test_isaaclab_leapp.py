"""Isaac Lab's export with LEAPP: what our terms give is an input of the policy's graph, and no number in it."""

import types

import numpy as np
import pytest
import torch
from depth_tasks import WallEnvCfg, make

leapp = pytest.importorskip("leapp")
onnxruntime = pytest.importorskip("onnxruntime")


def test_features_and_images_are_inputs_of_the_exported_policy(tmp_path):
    from isaaclab.utils.leapp import patch_env_for_export
    from isaaclab.utils.leapp.utils import ensure_env_spec_id

    cfg = WallEnvCfg()
    cfg.scene.num_envs = 1
    with make(cfg) as env:
        wrapped = types.SimpleNamespace(env=env, unwrapped=env)
        ensure_env_spec_id(wrapped)
        patch_env_for_export(wrapped, "onnx-dynamo", {"policy", "features", "images"})
        leapp.start("wall", save_path=str(tmp_path), max_cached_io=2)
        observations, _ = env.reset(seed=0)
        for _ in range(2):
            with torch.inference_mode():
                seen = observations["features"][:, :3] + observations["images"]["metres"].mean((1, 2, 3))[:, None]
                observations, *_ = env.step(observations["policy"] + seen)
        leapp.stop()
        leapp.compile_graph(visualize=False, validate=True, graph_configs=leapp.GraphConfigs(frequency=10.0))

    (file,) = tmp_path.rglob("*.onnx")
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    inputs = {x.name: np.zeros(x.shape, np.float32) for x in session.get_inputs()}
    assert {"features_features", "images_metres"} < set(inputs)
    action = session.get_outputs()[0].name
    still = session.run([action], inputs)[0]
    for name in ("features_features", "images_metres"):
        moved = session.run([action], {**inputs, name: np.ones_like(inputs[name])})[0]
        assert np.abs(moved - still).max() > 0.1
