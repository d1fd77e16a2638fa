"""What an encoder is said to take is what PyTorch's profiler sees it take."""

import functools

import pytest
import torch
from profiled import peak_bytes

from defm_rl.encoders import DepthEncoder
from defm_rl.memory import estimate_encoding

NETWORKS = [
    (name, features)
    for name in ("regnet_y_400mf", "resnet18", "efficientnet_b0", "vit_s14")
    for features in ("global", "P14" if name == "vit_s14" else "P3")
]
SIZES = [(batch, size) for batch in (1, 16, 64) for size in ((48, 96), (96, 128))]
FAST = {"global": (1, (96, 128)), "P3": (16, (48, 96)), "P14": (16, (48, 96))}
CASES = [
    pytest.param(*network, *case, marks=() if FAST[network[1]] == case else pytest.mark.slow)
    for network in NETWORKS
    for case in SIZES
]


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@functools.cache
def encoder_of(name: str, features: str, trainable: str = "none") -> DepthEncoder:
    encoder = DepthEncoder(f"defm_{name}", weights="random", features=features, trainable=trainable)
    encoder.threads = 1
    return encoder


@pytest.mark.parametrize(("name", "features", "batch", "size"), CASES)
@pytest.mark.sweep(3)
def test_encoding_takes_what_it_was_said_to(name, features, batch, size):
    encoder = encoder_of(name, features)
    estimate = estimate_encoding(encoder, batch, *size)
    depth = 5 * torch.rand(batch, *size)
    encoder.encode(depth)
    assert estimate.peak == pytest.approx(peak_bytes(lambda: encoder.encode(depth)), rel=0.1)
    weights, copied = encoder.net, encoder._net_for("cpu", encoder.net)  # in another order
    held = [*weights.buffers(), *(() if copied is weights else copied.buffers())]
    assert estimate.weights == sum(weight.nbytes for weight in held)
    assert (estimate.inputs, estimate.outputs) == (depth.nbytes, encoder.encode(depth).nbytes)


@pytest.mark.parametrize(("name", "features", "batch", "size"), CASES)
@pytest.mark.sweep(3)
def test_a_training_step_takes_what_it_was_said_to(name, features, batch, size):
    encoder = encoder_of(name, features, "all")
    trained, depth = list(encoder.parameters()), 5 * torch.rand(batch, *size)
    estimate = estimate_encoding(encoder, batch, *size, training=True)
    real = peak_bytes(lambda: torch.autograd.grad(encoder(depth).sum(), trained))
    assert estimate.peak == pytest.approx(real, rel=0.1)
    assert estimate.gradients == sum(parameter.nbytes for parameter in trained)
    assert 0 < estimate.saved < estimate.peak


@pytest.mark.slow
def test_chunks_bound_the_memory_of_encoding():
    encoder, size = encoder_of("regnet_y_400mf", "global"), (32, 32)
    one, three = (estimate_encoding(encoder, chunks * 1024, *size) for chunks in (1, 3))
    assert three.peak - 2 * three.outputs <= 1.1 * one.peak
    depth = 5 * torch.rand(3 * 1024, *size)
    encoder.encode(depth[:1])
    real_one, real_three = (peak_bytes(lambda n=n: encoder.encode(depth[: n * 1024])) for n in (1, 3))
    assert real_three - 2 * three.outputs <= 1.1 * real_one
    assert three.peak == pytest.approx(real_three, rel=0.1)


def test_shares_on_several_threads_come_on_top_of_each_other():
    encoder = DepthEncoder("defm_resnet18", weights="random")
    encoder.threads = 2
    estimate = estimate_encoding(encoder, 96, 48, 96)
    alone = encoder_of("resnet18", "global")
    share = 5 * torch.rand(24, 48, 96)  # two for each thread
    alone.encode(share)
    assert estimate.peak == pytest.approx(2 * peak_bytes(lambda: alone.encode(share)), rel=0.1)


def test_an_encoder_that_is_partly_trained_keeps_less():
    everything, last = (
        estimate_encoding(DepthEncoder("defm_resnet18", weights="random", trainable=stages), 16, 48, 96, training=True)
        for stages in ("all", ["layer4"])
    )
    assert last.saved < 0.5 * everything.saved
    assert last.gradients < everything.gradients


def test_nothing_is_trained_in_a_frozen_encoder():
    with pytest.raises(ValueError, match="pass trainable="):
        estimate_encoding(encoder_of("resnet18", "global"), 1, 48, 96, training=True)


def test_a_gpu_is_estimated_without_one():
    encoder = encoder_of("vit_s14", "global")
    on_cpu, on_gpu = (estimate_encoding(encoder, 8, 112, 112, device=device) for device in ("cpu", "cuda"))  # one share
    assert on_gpu.peak == pytest.approx(on_cpu.peak, rel=0.5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("name", "features"), NETWORKS)
def test_a_gpu_takes_what_it_was_said_to(name, features):
    encoder = DepthEncoder(f"defm_{name}", weights="random", features=features).cuda()
    depth = 5 * torch.rand(512, 96, 128, device="cuda")
    encoder.encode(depth)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    encoder.encode(depth)
    real = torch.cuda.max_memory_allocated() - before
    assert estimate_encoding(encoder, *depth.shape).peak == pytest.approx(real, rel=0.1)
