"""Small ONNX policies with a contract, made by hand: what the runtime is tested with where no network matters."""

import dataclasses

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from defm_rl.deploy import onnx_files
from defm_rl.deploy.runtime import Action, Camera, Contract, DepthInput, Memory, VectorInput

HEIGHT, WIDTH = 16, 24
CAMERA = Camera.from_fov(HEIGHT, WIDTH, 90.0)

CONTRACT = Contract(
    depth=(DepthInput("depth", (1, HEIGHT, WIDTH), HEIGHT, WIDTH, camera=CAMERA, far_m=10.0),),
    vectors=(VectorInput("state", (2,), entries=("left", "right")),),
    action=Action((2,), low=(-5.0, -5.0), high=(5.0, 5.0), units=("m/s", "rad/s"), scale=(2.0, 3.0), offset=(1.0, 0.0)),
    step_s=0.1,
)


def write(path, *, memory=False, root=False, alone=False, **changes):
    """A policy whose action is its state plus the mean of its depth; with a memory, plus the number of steps so far;
    with a root, the square root of that; alone, the mean of (H, W) depth twice, and no state."""
    batch = "batch"
    inputs = [
        helper.make_tensor_value_info("depth", TensorProto.FLOAT, [batch, 1, HEIGHT, WIDTH]),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [batch, 2]),
    ]
    outputs = [helper.make_tensor_value_info("action", TensorProto.FLOAT, [batch, 2])]
    constants = [numpy_helper.from_array(np.array([1, 2, 3]), "axes"), numpy_helper.from_array(np.array([0]), "layer")]
    nodes = [helper.make_node("ReduceMean", ["depth", "axes"], ["mean4"])]
    nodes.append(helper.make_node("Squeeze", ["mean4", "sides"], ["mean"]))
    constants.append(numpy_helper.from_array(np.array([2, 3]), "sides"))
    total = "sum"
    nodes.append(helper.make_node("Add", ["state", "mean"], [total]))
    if alone:
        inputs = [helper.make_tensor_value_info("depth", TensorProto.FLOAT, [batch, HEIGHT, WIDTH])]
        constants = [numpy_helper.from_array(np.array(x), name) for name, x in (("axes", [1, 2]), ("sides", [2]))]
        nodes[-1] = helper.make_node("Concat", ["mean", "mean"], [total], axis=1)
        changes = {"vectors": (), "depth": (DepthInput("depth", (HEIGHT, WIDTH), HEIGHT, WIDTH),), **changes}
    contract = dataclasses.replace(CONTRACT, **changes)
    if memory:
        contract = dataclasses.replace(contract, memory=(Memory("h", (1, 1)),))
        inputs.append(helper.make_tensor_value_info("h_in", TensorProto.FLOAT, [1, batch, 1]))
        outputs.append(helper.make_tensor_value_info("h_out", TensorProto.FLOAT, [1, batch, 1]))
        constants.append(numpy_helper.from_array(np.ones((1, 1, 1), np.float32), "one"))
        nodes += [
            helper.make_node("Squeeze", ["h_in", "layer"], ["steps"]),
            helper.make_node("Add", [total, "steps"], ["with_steps"]),
            helper.make_node("Add", ["h_in", "one"], ["h_out"]),
        ]
        total = "with_steps"
    if root:
        nodes.append(helper.make_node("Sqrt", [total], ["root"]))
        total = "root"
    constants += [numpy_helper.from_array(np.float32(x), name) for name, x in (("low", -5.0), ("high", 5.0))]
    nodes.append(helper.make_node("Clip", [total, "low", "high"], ["action"]))
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    made = path.with_suffix(".made")
    onnx.save(model, made)
    onnx_files.put_in_place(made, path, contract)
    return path
