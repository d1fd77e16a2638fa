"""A frozen encoder stays frozen, a trained one trains, and depth becomes the features that were asked for."""

import copy
import gc
import io
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
import weakref
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from defm_rl import DepthEncoder, normalize_depth
from defm_rl.depth import ScaleWarning
from defm_rl.encoders import inference
from defm_rl.encoders.inference import share_count
from defm_rl.encoders.pooling import SpatialSoftmax, make_pool

SMALL = "defm_efficientnet_b0"  # stochastic depth included


def make(**kwargs) -> DepthEncoder:
    return DepthEncoder(**{"encoder": SMALL, "weights": "random", **kwargs})


@pytest.fixture(scope="module")
def depth() -> torch.Tensor:
    return torch.rand(3, 40, 72, generator=torch.Generator().manual_seed(0)) * 5.0


def plainly(encoder: DepthEncoder, depth: torch.Tensor) -> torch.Tensor:
    """Features operation by operation, as where something is trained."""
    return encoder._run(encoder._images(depth)).detach()


def weights(encoder: DepthEncoder) -> dict[str, torch.Tensor]:
    tensors = {**dict(encoder.net.named_parameters()), **dict(encoder.net.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# Frozen means frozen.


def test_a_frozen_encoder_gives_the_optimizer_nothing():
    assert list(make().parameters()) == []


def test_a_frozen_encoder_is_not_in_the_checkpoint():
    file = io.BytesIO()
    torch.save(make().state_dict(), file)
    assert len(file.getvalue()) < 20_000  # the network has 12 MB


def test_a_frozen_encoder_stays_in_evaluation_mode(depth):
    policy = nn.Sequential(make(), nn.Dropout())
    policy.train()
    assert policy[1].training
    assert not any(module.training for module in policy[0].net.modules())
    assert torch.equal(policy[0](depth), policy[0](depth))


def test_a_frozen_encoder_survives_the_initialization_of_its_policy():
    policy = nn.Sequential(make(features="P4", pool="attention"), nn.Linear(64, 2))
    before = weights(policy[0])

    def zero(module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d | nn.GroupNorm | nn.LayerNorm):
            nn.init.zeros_(module.weight)

    policy.apply(zero)
    assert same(before, weights(policy[0]))
    assert policy[1].weight.abs().sum() == 0
    assert policy[0].pools["P4"].norm.weight.abs().sum() == 0  # the learned pool is the policy's


def test_pretrained_weights_survive_the_initialization_when_they_are_trained_too():
    encoder = make(trainable="all")
    before = weights(encoder)
    nn.Sequential(encoder).apply(lambda m: nn.init.zeros_(m.weight) if isinstance(m, nn.Conv2d) else None)
    assert same(before, weights(encoder))


def test_a_frozen_encoder_builds_no_graph(depth):
    encoder = make(features=["global", "P4"])
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        features = encoder(depth)
    assert not features.requires_grad
    assert not saved


def test_a_frozen_encoder_moves_with_its_policy():
    encoder = nn.Sequential(make()).double()[0]
    assert {tensor.dtype for tensor in encoder.net.buffers()} == {torch.float64}


@pytest.mark.sweep(11)
@pytest.mark.parametrize("trainable", ["none", "all"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float16, 0.05), (torch.bfloat16, 0.2), (torch.float64, 1e-4)], ids=str
)
@pytest.mark.parametrize("name", [SMALL, "defm_vit_s14"])
def test_a_network_in_another_dtype_gives_features_in_that_dtype(depth, name, dtype, tolerance, trainable):
    level = "P14" if "vit" in name else "P4"
    settings = {"encoder": name, "features": ["global", level], "pool": "grid"}
    expected = make(**settings)(depth)
    encoder = make(**settings, trainable=trainable).to(dtype)
    for features in (plainly(encoder, depth), encoder(depth), encoder.encode(depth)):
        assert features.dtype == dtype
        torch.testing.assert_close(features.float(), expected, rtol=tolerance, atol=tolerance)


def test_depth_in_another_dtype_is_normalized_in_float32(depth):
    encoder = make()
    torch.testing.assert_close(encoder(depth.double()), encoder(depth))
    torch.testing.assert_close(encoder(depth.half()), encoder(depth.half().float()))


@pytest.mark.parametrize("pool", ["grid", "spatial_softmax", "attention"])
def test_autocast_leaves_the_features_dtype_as_it_is(depth, pool):
    encoder = make(features=["global", "P4"], pool=pool, trainable=["head"])
    expected = encoder(depth)
    with torch.autocast("cpu", torch.bfloat16):
        features = encoder(depth)
    assert features.dtype == torch.float32
    assert not torch.equal(features, expected)
    torch.testing.assert_close(features, expected, rtol=0.2, atol=0.2)


def test_a_network_in_another_dtype_can_be_unfrozen():
    encoder = make().double()
    assert {parameter.dtype for parameter in encoder.unfreeze("all")} == {torch.float64}


# What is trained.


def test_training_reaches_every_parameter_that_is_handed_out(depth):
    for features, bifpn in (("global", True), ("P3", True), ("P4", False)):
        encoder = make(features=features, bifpn=bifpn, trainable="all")
        encoder(depth).square().sum().backward()
        assert [name for name, p in encoder.named_parameters() if p.grad is None] == []


def test_parameters_that_the_features_do_not_depend_on_stay_frozen():
    names = [name for name, _ in make(features="global", trainable="all").named_parameters()]
    assert names
    assert not any("fpn" in name or "norm_patch" in name for name in names)


def test_only_the_named_stages_are_trained(depth):
    encoder = make(trainable=["head"])
    assert [name for name, _ in encoder.named_parameters()] == ["net.norm_cls.weight", "net.norm_cls.bias"]
    before = weights(encoder)
    encoder.train()
    assert encoder.net.norm_cls.training
    assert not encoder.net.backbone.training
    optimizer = torch.optim.SGD(encoder.parameters(), lr=0.1)
    encoder(depth).square().sum().backward()
    optimizer.step()
    changed = {name for name, tensor in weights(encoder).items() if not torch.equal(tensor, before[name])}
    assert changed == {"norm_cls.weight", "norm_cls.bias"}


def test_stochastic_depth_stays_off_unless_it_is_asked_for(depth):
    encoder = make(trainable="all")
    assert torch.equal(encoder.train()(depth), encoder.eval()(depth))
    encoder = make(trainable="all", stochastic_depth=True).train()
    assert not torch.equal(encoder(depth), encoder(depth))


def test_stochastic_depth_of_frozen_stages_stays_off_while_others_train(depth):
    encoder = make(trainable=["head"], stochastic_depth=True).train()
    assert torch.equal(encoder(depth), encoder(depth))


def test_unfreezing_hands_out_the_new_parameters_once(depth):
    encoder = make()
    before = plainly(encoder, depth)
    new = encoder.unfreeze(["head"])
    assert [id(p) for p in new] == [id(p) for p in encoder.parameters()]
    assert all(parameter.is_defm_encoder for parameter in new)
    copied = copy.deepcopy(nn.Sequential(encoder))  # as a policy is copied
    assert [getattr(parameter, "is_defm_encoder", False) for parameter in copied.parameters()] == [True] * len(new)
    assert encoder.unfreeze(["head"]) == []
    assert torch.equal(plainly(encoder, depth), before)
    assert encoder.trainable == ("head",)


def test_unfreezing_after_encoding_is_seen_by_the_next_encoding(depth):
    encoder = make().eval()
    before = encoder.encode(depth)
    graphs = weakref.ref(encoder._runner)
    with torch.no_grad():
        for parameter in encoder.unfreeze("all"):
            parameter.mul_(1.1)
    after = encoder.encode(depth)
    assert (after - before).abs().max() > 0.01
    torch.testing.assert_close(after, plainly(encoder, depth), rtol=1e-4, atol=1e-4)
    assert graphs() is None, "the graphs' copy of the weights is not given back"


def test_an_unknown_stage_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match=r"'layer9'.*stem.*head"):
        make(trainable=["layer9"])


def test_stages_that_the_features_do_not_depend_on_cannot_be_trained():
    with pytest.raises(ValueError, match=r"P3 of .* do not depend on head"):
        make(features="P3", bifpn=False, trainable=["head"])
    encoder = make(features="P3", bifpn=False)
    with pytest.raises(ValueError, match="do not depend on head"):
        encoder.unfreeze(["head"])
    assert encoder.frozen


# Checkpoints.


def test_a_checkpoint_of_a_trained_encoder_gives_the_same_features(depth):
    trained = make(trainable="all").eval()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.mul_(1.1)
    other = make(trainable="all", seed=1).eval()
    other.load_state_dict(trained.state_dict())
    assert torch.equal(other(depth), trained(depth))


def test_a_checkpoint_made_with_other_weights_is_refused():
    with pytest.raises(RuntimeError, match="other weights"):
        make(seed=1).load_state_dict(make(seed=0).state_dict())


def test_a_checkpoint_made_with_another_encoder_is_refused():
    with pytest.raises(RuntimeError, match="defm_resnet18"):
        make().load_state_dict(make(encoder="defm_resnet18").state_dict())


def test_copies_and_pickles_give_the_same_features(depth):
    encoder = make()
    features = encoder.encode(depth)
    assert torch.equal(copy.deepcopy(encoder)(depth), encoder(depth))
    torch.testing.assert_close(pickle.loads(pickle.dumps(encoder)).encode(depth), features)


# Features and pools.


def test_features_are_those_of_the_network_on_normalized_depth(depth):
    encoder = make(features=["P4", "global"], pool="flatten", image_size=(40, 72))
    out = encoder.net(normalize_depth(depth, pad_to=32))
    torch.testing.assert_close(plainly(encoder, depth), torch.cat([out.maps["P4"].flatten(1), out.global_features], 1))


@pytest.mark.sweep(11)
@pytest.mark.parametrize("pool", ["mean", "columns", "grid", "spatial_softmax", "attention", "flatten"])
@pytest.mark.parametrize("bifpn", [True, False])
@pytest.mark.parametrize("name", [SMALL, "defm_vit_s14"])
def test_feature_dim_is_the_length_of_the_features(depth, name, bifpn, pool):
    level = "P14" if "vit" in name else "P4"
    encoder = make(encoder=name, features=[level, "global"], pool=pool, bifpn=bifpn, image_size=(40, 72))
    assert encoder(depth).shape == (3, encoder.feature_dim)
    assert encoder(depth).dtype == torch.float32


def test_a_grid_that_divides_the_map_averages_its_cells(depth):
    encoder = make(features="P3", pool="grid", grid=(5, 3), bifpn=False)
    cells = encoder.net(normalize_depth(depth), bifpn=False).maps["P3"]
    expected = cells.unflatten(3, (3, 3)).mean(4).flatten(1)
    torch.testing.assert_close(encoder(depth), expected)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("image_size", [None, (40, 72)])
@pytest.mark.parametrize("grid", [(2, 4), (5, 9), (7, 20), (1, 1)])
def test_a_grid_is_adaptive_pooling_whether_or_not_the_image_size_is_known(depth, grid, image_size):
    encoder = make(features="P3", pool="grid", grid=grid, bifpn=False, image_size=image_size)
    cells = encoder.net(normalize_depth(depth), bifpn=False).maps["P3"]
    torch.testing.assert_close(encoder(depth), nn.functional.adaptive_avg_pool2d(cells, grid).flatten(1))
    other = torch.cat([depth, depth], dim=2)  # not the size that was announced
    cells = encoder.net(normalize_depth(other), bifpn=False).maps["P3"]
    torch.testing.assert_close(encoder(other), nn.functional.adaptive_avg_pool2d(cells, grid).flatten(1))


@pytest.mark.slow
@pytest.mark.sweep(5)
@pytest.mark.parametrize("image_size", [None, (40, 72)])
@pytest.mark.parametrize("pool", ["grid", "spatial_softmax", "attention"])
def test_an_encoder_with_its_pool_exports_and_compiles(depth, pool, image_size):
    encoder = make(encoder="defm_regnet_y_400mf", features="P3", pool=pool, bifpn=False, image_size=image_size)
    expected = encoder(depth).detach()
    program = torch.export.export(encoder, (depth,), dynamic_shapes={"depth": {0: torch.export.Dim("batch")}})
    torch.testing.assert_close(program.module()(depth[:2]), expected[:2], rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(encoder, fullgraph=True, backend="eager")(depth)
    torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder(depth), expected)  # nothing of the tracing is left behind


@pytest.mark.parametrize("image_size", [None, (40, 72)])
def test_a_grid_makes_no_tensor_on_another_device_than_its_map(image_size):
    """A copy from the processor waits for a GPU, and cannot be part of a CUDA graph."""
    pool, _ = make_pool("grid", 4, None if image_size is None else (5, 9), (2, 4))
    pool = pool.to("meta")
    with TensorsOf() as made:
        assert pool(torch.empty(2, 4, 5, 9, device="meta")).device.type == "meta"
    assert {tensor.device.type for tensor in made.tensors} == {"meta"}


class TensorsOf(TorchDispatchMode):
    """Collects every tensor that an operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.tensors: list[torch.Tensor] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.tensors += [x for x in tree_leaves(output) if isinstance(x, torch.Tensor)]
        return output


def test_spatial_softmax_finds_the_peak():
    peak = torch.zeros(1, 1, 5, 9)
    peak[0, 0, 1, 6] = 50.0
    torch.testing.assert_close(SpatialSoftmax()(peak), torch.tensor([[0.5, -0.5]]))


def test_every_way_to_hand_over_depth_gives_the_same_features(depth):
    encoder = make()
    expected = encoder(depth)
    for given in (depth.numpy(), depth[:, None], depth[..., None], depth.numpy()[:, None]):
        torch.testing.assert_close(encoder(given), expected)
    millimetres = (depth * 1000).round()
    torch.testing.assert_close(
        make(unit="mm")(millimetres.numpy().astype(np.uint16)), encoder(millimetres / 1000), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("trainable", ["none", "all"])
def test_an_image_without_a_valid_pixel_is_one_of_holes(trainable):
    encoder = make(trainable=trainable)
    holes, negative = torch.zeros(1, 32, 32), torch.full((1, 32, 32), -1.0)
    assert torch.equal(encoder(negative), encoder(holes))
    assert torch.equal(encoder.encode(negative), encoder.encode(holes))
    with pytest.raises(ValueError, match="only negative"):
        normalize_depth(negative)


def test_a_resize_sets_the_size_that_the_network_sees(depth):
    encoder = make(features="P3", pool="columns", size=(32, 64), bifpn=False)
    assert encoder.feature_dim == encoder.card.channels["P3"] * 8
    assert encoder(depth).shape[1] == encoder.feature_dim


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"features": "P7"}, "global, P3, P4, P5.*P7"),
        ({"features": []}, "global, P3, P4, P5"),
        ({"features": ["P4", "P4"]}, "each once"),
        ({"features": "P4", "pool": "max"}, "mean, columns.*'max'"),
        ({"features": "P4", "pool": "columns"}, "image_size"),
        ({"features": "P4", "pool": "grid", "grid": (0, 3)}, r"grid must be.*\(0, 3\)"),
        ({"features": "P4", "pool": "grid", "grid": (9,)}, r"grid must be \(rows, columns\).*\(9,\)"),
        ({"features": "P4", "pool": "grid", "grid": 9}, r"grid must be \(rows, columns\).*9"),
        ({"features": "P4", "pool": "grid", "grid": (2.5, 4)}, r"grid must be \(rows, columns\).*2.5"),
        ({"encoder": "resnet81"}, "defm_resnet18"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make(**kwargs)


# The fast way.


@pytest.mark.sweep(2)
@pytest.mark.parametrize("name", [SMALL, "defm_regnet_y_400mf", "defm_vit_s14"])
def test_the_fast_way_gives_the_same_features_for_any_batch(name):
    encoder = make(encoder=name)
    depth = torch.rand(9, 42, 56, generator=torch.Generator().manual_seed(1)) * 5.0
    depth[0, :9] = 0.0
    depth[1, 3, 3] = float("nan")
    expected = plainly(encoder, depth)
    for batch in (9, 1, 4, 9):
        torch.testing.assert_close(encoder.encode(depth[:batch]), expected[:batch], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", ["global", "P3"])
@pytest.mark.parametrize("image_size", [None, (40, 72)])
@pytest.mark.sweep(3)
def test_the_fast_way_uses_a_graph_and_a_share_per_thread(depth, features, image_size):
    encoder = make(features=features, bifpn=False, image_size=image_size)
    encoder.threads = 2
    encoder.encode(depth.repeat(24, 1, 1))
    assert isinstance(encoder._runner, inference.FrozenRunner)
    assert all(isinstance(graph, torch.jit.ScriptFunction) for graph in encoder._runner._graphs.values())
    assert encoder._runner._pool is not None


def test_shares_leave_the_number_of_threads_as_it_was():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in range(2):  # what the first encoder set once came out when the second one was made
            encoder = make(encoder="defm_regnet_y_400mf")
            encoder.threads = 2
            encoder.encode(torch.rand(32, 96, 96))
            assert encoder._runner._pool is not None
            assert torch.get_num_threads() == 2
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


def change_weights(encoder: DepthEncoder) -> None:
    with torch.no_grad():
        for buffer in encoder.net.buffers():
            buffer.mul_(1.1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (SMALL, change_weights),
        ("defm_vit_s14", change_weights),  # its graph holds position embeddings resized beforehand
        (SMALL, DepthEncoder.double),
        (SMALL, DepthEncoder.bfloat16),
    ],
)
@pytest.mark.sweep(3)
def test_the_fast_way_follows_changes_of_the_weights(depth, name, change):
    encoder = make(encoder=name)
    encoder.encode(depth)
    change(encoder)
    torch.testing.assert_close(encoder.encode(depth), plainly(encoder, depth), rtol=1e-3, atol=1e-3)


@pytest.mark.sweep(3)
@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.03), ("float16", 0.004)])
@pytest.mark.parametrize("way", ["auto", "off"])
def test_a_reduced_precision_changes_features_by_its_rounding_only(depth, precision, tolerance, way):
    exact = make(encoder="defm_regnet_y_400mf").encode(depth)
    encoder = make(encoder="defm_regnet_y_400mf", precision=precision, compile=way)
    for features in (encoder.encode(depth), plainly(encoder, depth)):
        assert features.dtype == torch.float32
        error = ((features - exact).norm() / exact.norm()).item()
        assert 1e-5 < error < tolerance  # and it does compute in it
    assert encoder.dtype == torch.float32
    assert same(weights(encoder), weights(make(encoder="defm_regnet_y_400mf")))


def test_a_reduced_precision_follows_changes_of_the_weights(depth):
    encoder = make(precision="bfloat16")
    before = encoder.encode(depth)
    change_weights(encoder)
    after = encoder.encode(depth)
    assert not torch.allclose(before, after, rtol=1e-3)
    exact = make()
    change_weights(exact)
    expected = exact.encode(depth)
    assert ((after - expected).norm() / expected.norm()).item() < 0.1


def test_training_at_a_reduced_precision_keeps_weights_and_gradients_in_float32(depth):
    encoder = make(trainable="all", precision="bfloat16", features=("global", "P4"), bifpn=False)
    reference = make(trainable="all", features=("global", "P4"), bifpn=False)
    for network in (encoder, reference):
        features = network(depth)
        assert features.dtype == torch.float32
        features.square().mean().backward()
    assert all(weight.dtype == weight.grad.dtype == torch.float32 for weight in encoder.parameters())
    gradient, exact = (torch.cat([w.grad.flatten() for w in net.parameters()]) for net in (encoder, reference))
    assert torch.cosine_similarity(gradient, exact, dim=0) > 0.95


@pytest.mark.parametrize(("key", "value"), [("precision", "bf16"), ("compile", "fast")])
def test_an_unknown_way_to_compute_is_refused_with_those_that_there_are(key, value):
    with pytest.raises(ValueError, match=f"{key} must be one of .*; got '{value}'"):
        make(**{key: value})


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("c++") is None, reason="TorchInductor needs a C++ compiler")
def test_compiled_features_are_the_same_and_the_time_it_took_is_logged(depth, caplog):
    caplog.set_level(logging.INFO)
    name = "defm_resnet18"  # the quickest to compile; that of the others is tested with the networks
    encoder = make(encoder=name, compile="inductor")
    expected = make(encoder=name).encode(depth)
    torch.testing.assert_close(encoder.encode(depth), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(encoder.encode(depth), expected, rtol=1e-4, atol=1e-4)
    messages = [record.message for record in caplog.records if "Compiling" in record.message]
    assert len(messages) == 1
    assert name in messages[0]
    trained = make(encoder=name, compile="inductor", trainable="all")
    torch.testing.assert_close(trained(depth), expected, rtol=1e-4, atol=1e-4)
    trained(depth).sum().backward()
    assert all(weight.grad is not None for weight in trained.parameters())


def test_the_fast_way_is_the_same_under_autocast(depth):
    encoder = make(encoder="defm_regnet_y_400mf")
    encoder.threads = 2
    many = depth.repeat(24, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        traced_under_autocast = [encoder.encode(part) for part in (many, many[:1])]
    for features in traced_under_autocast:
        torch.testing.assert_close(features, plainly(encoder, many[: len(features)]), rtol=1e-4, atol=1e-4)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.slow
def test_a_forked_process_can_encode():
    """The threads of the parent are not there; in a process of its own, since a fork copies all that PyTorch holds."""
    script = """
import os, signal, sys, torch
from defm_rl import DepthEncoder
torch.set_num_threads(2)
encoder = DepthEncoder("defm_regnet_y_400mf", weights="random")
depth = torch.rand(256, 32, 32)
expected = encoder.encode(depth)
child = os.fork()
if child == 0:
    signal.alarm(60)
    same = all(torch.allclose(encoder.encode(x), expected[: len(x)], atol=1e-4) for x in (depth, depth[:8]))
    os._exit(0 if same else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    done = subprocess.run([sys.executable, "-c", script], timeout=300, check=False)
    assert done.returncode == 0, "the child hung or encoded something else"


def test_a_graph_goes_with_its_encoder():
    """A process that makes one run after the other, as a sweep does, keeps none of their weights."""
    weight = torch.randn(3, 4)
    kept = StorageWeakRef(weight.untyped_storage())
    graph = inference._trace(partial(torch.matmul, other=weight), torch.rand(1, 3, 3))
    torch.testing.assert_close(graph(torch.ones(2, 3, 3)), torch.ones(2, 3, 3) @ weight)
    assert isinstance(graph, torch.jit.ScriptFunction)
    del weight, graph
    gc.collect()
    assert kept.expired()


def test_chunks_do_not_change_the_features(depth):
    encoder = make()
    torch.testing.assert_close(encoder.encode(depth, chunk=1), encoder.encode(depth), rtol=1e-4, atol=1e-4)


def test_encoding_leaves_no_graph_and_tensors_that_training_can_use(depth):
    features = make(trainable="all").encode(depth)
    assert not features.requires_grad
    assert not features.is_inference()


@pytest.mark.parametrize(
    ("pixels", "threads", "shares"),
    [(7_999, 2, 1), (8_000, 2, 2), (370_000, 2, 2), (380_000, 2, 4), (10**6, 4, 8), (10**6, 1, 7)],
)
def test_a_batch_is_shared_where_each_core_has_enough_to_do(pixels, threads, shares):
    assert share_count(pixels, threads) == shares


@pytest.mark.parametrize(("name", "pool_is_there"), [("defm_resnet18", True), ("defm_vit_s14", False)])
@pytest.mark.slow
def test_the_batches_of_a_vit_are_left_to_pytorchs_threads(name, pool_is_there):
    encoder = make(encoder=name)
    encoder.threads = 2
    many = 5 * torch.rand(4, 64, 64)
    torch.testing.assert_close(encoder.encode(many), plainly(encoder, many), rtol=1e-4, atol=1e-4)
    assert (encoder._runner._pool is not None) == pool_is_there


def test_counts_and_a_limit_give_the_features_of_metres_with_holes(depth):
    holes = depth.where(depth <= 3.0, 0.0)
    counts = (depth * 10000).round().numpy().astype(np.uint16)
    counts[0, 0] = 65535
    holes[0, 0] = 0.0
    encoder = make(unit=1e-4, max_depth_m=3.0)
    for features in (encoder(counts), encoder.encode(counts)):
        torch.testing.assert_close(features, make()(holes), rtol=1e-3, atol=1e-3)


def test_millimetres_taken_for_metres_get_one_warning_in_a_loop():
    encoder = make()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        encoder(torch.ones(1, 32, 32))
        for _ in range(3):
            encoder.encode(torch.full((1, 32, 32), 900.0))
            encoder(torch.full((1, 32, 32), 900.0))
    (said,) = [str(each.message) for each in caught if each.category is ScaleWarning]
    assert "millimetres" in said


@pytest.mark.parametrize("pool", ["columns", "flatten"])
def test_images_of_another_size_than_the_features_are_for_are_refused(pool):
    encoder = make(features="P4", bifpn=False, pool=pool, image_size=(48, 96))
    assert encoder(torch.ones(1, 48, 96)).shape == (1, encoder.feature_dim)
    for call in (encoder, encoder.encode):
        with pytest.raises(ValueError, match=r"32x64 pixels.*48x96.*image_size=\(32, 64\).*size=\(48, 96\)"):
            call(torch.ones(1, 32, 64))
    assert encoder(torch.ones(1, 40, 90)).shape == (1, encoder.feature_dim)  # padded to the same map
    resized = make(features="P4", bifpn=False, pool=pool, size=(48, 96))
    assert resized(torch.ones(1, 32, 64)).shape == (1, resized.feature_dim)


def test_images_of_another_size_are_taken_where_the_features_do_not_depend_on_it():
    encoder = make(features="P4", bifpn=False, pool="grid", image_size=(48, 96))
    assert encoder(torch.ones(1, 32, 64)).shape == (1, encoder.feature_dim)


# Checkpoints in other people's hands.


@pytest.mark.parametrize("trainable", ["none", "all"])
@pytest.mark.slow
def test_a_policy_goes_through_safetensors_and_averages_of_state_dicts(trainable, tmp_path):
    policies = [nn.Sequential(make(trainable=trainable), nn.Linear(192, 2)) for _ in range(2)]
    first, second = (policy.state_dict() for policy in policies)
    assert all(isinstance(value, torch.Tensor) for value in first.values())
    save_file(first, tmp_path / "state.safetensors")
    policies[1].load_state_dict(load_file(tmp_path / "state.safetensors"))
    twice = nn.ModuleDict({"actor": policies[0], "critic": nn.ModuleList([policies[0][0], nn.Linear(2, 2)])})
    save_model(twice, str(tmp_path / "model.safetensors"))  # one encoder under two names
    load_model(twice, str(tmp_path / "model.safetensors"))
    policies[1].load_state_dict({name: 0.5 * x + 0.5 * second[name] for name, x in first.items()})
    averaged = AveragedModel(policies[0], multi_avg_fn=get_ema_multi_avg_fn(0.999))
    averaged.update_parameters(policies[1])
    averaged.load_state_dict(averaged.state_dict())
    moving = {name: x.clone() for name, x in first.items()}
    for _ in range(1000):
        for name, x in moving.items():
            x.mul_(0.999).add_(second[name], alpha=1 - 0.999)
    policies[1].load_state_dict(moving)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.uint8])
@pytest.mark.sweep(3)
def test_a_checkpoint_is_verified_after_a_cast(dtype):
    state = {name: x.to(dtype) for name, x in make().state_dict().items()}
    make().load_state_dict(state)
    with pytest.raises(RuntimeError, match="other weights"):
        make(seed=1).load_state_dict(state)
    encoder = make().to(dtype) if dtype.is_floating_point else make()
    make().load_state_dict(encoder.state_dict())


def test_an_average_of_checkpoints_of_different_weights_is_refused():
    first, second = make().state_dict(), make(seed=1).state_dict()
    with pytest.raises(RuntimeError, match="does not say any more which encoder"):
        make().load_state_dict({name: 0.5 * x + 0.5 * second[name] for name, x in first.items()})


# Networks that two encoders share.


@pytest.mark.parametrize("change", [lambda e: e.double(), lambda e: e.net.double(), lambda e: e.unfreeze(["head"])])
@pytest.mark.sweep(2)
def test_what_one_encoder_does_to_a_shared_network_the_other_follows(depth, change):
    first = make()
    second = make(network=first.net)
    second.encode(depth)
    change(first)
    if first.trainable:
        assert not second.frozen
        with torch.no_grad():
            first.net.norm_cls.weight.mul_(2)
    torch.testing.assert_close(second.encode(depth), plainly(second, depth), rtol=1e-3, atol=1e-3)
    assert second.encode(depth).dtype == first.dtype


def test_calling_a_frozen_encoder_takes_the_fast_way(depth):
    encoder = make()
    features = encoder(depth)
    assert isinstance(encoder._runner, inference.FrozenRunner)
    assert torch.equal(features, encoder.encode(depth))
    derived = depth.clone().requires_grad_()
    encoder(derived).sum().backward()
    assert derived.grad.abs().sum() > 0  # what is frozen still passes gradients on
