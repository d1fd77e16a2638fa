"""`measure`: how long a policy or an encoder takes for one frame, what memory, and how long until it can begin."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_WARM_UP = 20


@dataclass(frozen=True)
class Measured:
    """One way to compute one frame.

    Attributes:
        name: What computed it.
        threads: On how many threads.
        p50_ms, p90_ms, p99_ms: Percentiles of a step.
        start_s: From an empty process to the first action, imports included.
        memory_mb: Peak resident memory of that process.
    """

    name: str
    threads: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    start_s: float
    memory_mb: float


def measure(
    path_or_name: str | Path, *, threads: int | None = None, seconds: float = 2.0, size: tuple[int, int] = (64, 64)
) -> list[Measured]:
    """Times single frames on the CPU, on one and on all threads, each in a process of its own.

    Args:
        path_or_name: An exported ONNX file; or an encoder's name: ours with `encode`, operation by operation as
            upstream's package does it, and as ONNX in float32, with random weights.
        threads: How many "all" are. Default: those that the process may use.
        seconds: Spent on each measurement.
        size: Height and width of the images, of an encoder.

    Raises:
        FileNotFoundError: Where there is neither a file nor an encoder of that name.
    """
    every = threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="defm_rl-") as folder:
        return [
            _in_a_process(name, subject, count, seconds)
            for name, subject in _subjects(str(path_or_name), size, folder).items()
            for count in dict.fromkeys((1, every))
        ]


def _subjects(given: str, size: tuple[int, int], folder: str) -> dict[str, dict[str, Any]]:
    if Path(given).is_file():
        return {"ONNX Runtime": {"kind": "file", "path": given}}
    from defm_rl.encoders import find_card

    try:
        name = find_card(given).name
    except ValueError as error:
        raise FileNotFoundError(f"{given!r} is neither an exported file nor an encoder: {error}") from error
    from defm_rl.deploy.exporting import export_encoder

    exported = export_encoder(name, Path(folder) / "encoder.onnx", weights="random", image_size=size)
    common = {"encoder": name, "size": list(size)}
    return {
        "eager": {"kind": "eager", **common},
        "encode": {"kind": "encode", **common},
        "ONNX Runtime": {"kind": "file", "path": str(exported.path)},
    }


def _in_a_process(name: str, subject: Mapping[str, Any], threads: int, seconds: float) -> Measured:
    request = json.dumps({**subject, "threads": threads, "seconds": seconds})
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-m", __name__, request], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        raise RuntimeError(f"Measuring {name} failed: {done.stderr.strip().splitlines()[-1]}")
    return Measured(name, threads, **json.loads(done.stdout.splitlines()[-1]))


def _timed(step: Callable[[], Any], seconds: float, started: float) -> dict[str, float]:
    step()
    start_s = time.perf_counter() - started
    for _ in range(_WARM_UP):
        step()
    taken, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        before = time.perf_counter()
        step()
        taken.append(time.perf_counter() - before)
    p50, p90, p99 = np.percentile(taken, (50, 90, 99)) * 1e3
    return {
        "p50_ms": float(p50),
        "p90_ms": float(p90),
        "p99_ms": float(p99),
        "start_s": start_s,
        "memory_mb": _peak_memory_mb(),
    }


def _peak_memory_mb() -> float:
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def _measured_here(request: Mapping[str, Any], started: float) -> dict[str, float]:
    if request["kind"] == "file":
        return _timed(_file_step(Path(request["path"]), request["threads"]), request["seconds"], started)
    return _timed(_torch_step(request), request["seconds"], started)


def _file_step(path: Path, threads: int) -> Callable[[], Any]:
    from defm_rl.deploy.runtime import DepthInput, Policy

    policy = Policy(path, clock=None, threads=threads)
    rng = np.random.default_rng(0)
    observations: dict[str, Any] = {}
    for wanted in policy.contract.inputs:
        if isinstance(wanted, DepthInput):
            depth = rng.uniform(0.5, 5.0, wanted.shape) / wanted.metres_per_count
            observations[wanted.name] = depth.astype(np.float32)
        else:
            observations[wanted.name] = np.zeros(wanted.shape, wanted.dtype)
    return lambda: policy.act(**observations)


def _torch_step(request: Mapping[str, Any]) -> Callable[[], Any]:
    import torch

    from defm_rl.encoders import DepthEncoder

    torch.set_num_threads(request["threads"])
    size = tuple(request["size"])
    compiled = "off" if request["kind"] == "eager" else "auto"
    encoder = DepthEncoder(request["encoder"], weights="random", image_size=size, compile=compiled)
    depth = np.random.default_rng(0).uniform(0.5, 5.0, (1, *size)).astype(np.float32)
    return lambda: encoder.encode(depth)


if __name__ == "__main__":
    _begun = time.perf_counter()
    sys.stdout.write(json.dumps(_measured_here(json.loads(sys.argv[1]), _begun)) + "\n")
