"""One frame on one thread in the robot's runtimes: exported encoders in ONNX Runtime and OpenVINO, and in PyTorch.

In processor time, which other processes disturb less than the clock. OpenVINO runs in a process of its own.
"""

import argparse
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import harness
import numpy as np
import torch
import upstream

from defm_rl import DepthEncoder
from defm_rl.deploy import Policy, export_encoder

ENCODERS = ("defm_regnet_y_400mf", "defm_efficientnet_b0", "defm_resnet18")
SIZES = ((64, 64), (96, 160), (224, 224))
ROUNDS = 40


def spent_s(calls: dict[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of the processor that each call takes, in turns."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(-3, ROUNDS):
        for name, call in calls.items():
            start = time.process_time()
            call()
            if turn >= 0:
                spent[name].append(time.process_time() - start)
    return spent


def openvino(path: str) -> None:
    """Writes the milliseconds of one frame in OpenVINO."""
    from openvino import Core  # type: ignore[import-not-found]

    core = Core()
    model = core.read_model(path)
    shape = [1, *(axis.get_length() for axis in list(model.input(0).partial_shape)[1:])]
    model.reshape(shape)
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    depth = np.random.default_rng(0).uniform(0.5, 5.0, shape).astype(np.float32)
    sys.stdout.write(f"{harness.median_ms(spent_s({'it': lambda: request.infer({0: depth})})['it'])}\n")


def in_a_process(path: Path) -> float:
    """The milliseconds of `openvino`."""
    script = f"import bench_runtimes; bench_runtimes.openvino({str(path)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    return float(done.stdout.split()[-1])


def measure(name: str, size: tuple[int, int], folder: Path) -> dict[str, object]:
    """One encoder at one size: depth in metres to global features."""
    encoder = DepthEncoder(name, weights="random", image_size=size)
    published = upstream.load(name, dict(encoder.net.named_buffers()))
    path = export_encoder(encoder, folder / f"{name}-{size[0]}x{size[1]}.onnx", image_size=size).path
    policy = Policy(path, clock=None)
    depth = torch.rand(1, *size) * 8
    array = depth.numpy()

    def run_published() -> torch.Tensor:
        with torch.inference_mode():
            return upstream.global_features(published, upstream.preprocess_depth_batch(depth))

    calls = {
        "published": run_published,
        "encode": lambda: encoder.encode(depth),
        "ONNX Runtime": lambda: policy.act(depth=array),
    }
    ms = {way: harness.median_ms(spent) for way, spent in spent_s(calls).items()} | {"OpenVINO": in_a_process(path)}
    return {
        "encoder": name.removeprefix("defm_"),
        "size": f"{size[0]}x{size[1]}",
        **{f"{way} ms": value for way, value in ms.items()},
        **{f"{way} / published": round(ms[way] / ms["published"], 2) for way in list(ms)[1:]},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="*", default=ENCODERS)
    parser.add_argument("--sizes", nargs="*", default=SIZES, type=lambda text: tuple(map(int, text.split("x"))))
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(name, size, Path(folder)) for name in args.encoders for size in args.sizes]
    harness.save("runtimes", rows, threads_used=1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
