"""`measure`: how long a policy or an encoder takes for one frame, what memory, and how long until it can begin."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defm_rl.deploy.runtime.contract import Contract, DepthInput

PUBLISHED = "defm"
"""The published package, which is measured too where it is installed."""

INT8 = "ONNX in int8"

_WARM_UP = 20
_FRAMES = 8  # by which int8 is calibrated here


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
    path_or_name: str | Path,
    *,
    threads: int | None = None,
    seconds: float = 2.0,
    size: tuple[int, int] = (64, 64),
    int8: bool = True,
) -> list[Measured]:
    """Times single frames on the CPU, on one and on all threads, each in a process of its own.

    Args:
        path_or_name: An exported ONNX file; or an encoder's name: ours with `encode`, operation by operation, and as
            ONNX, with random weights. Beside either stands the encoder in the published package, its preprocessing
            included, where that is installed.
        threads: How many "all" are. Default: those that the process may use.
        seconds: Spent on each measurement.
        size: Height and width of the images, of an encoder.
        int8: Whether a file in float32, or an encoder's, is timed quantized, too. Its ranges are then calibrated on
            random frames, which is good for its time and for nothing else.

    Raises:
        FileNotFoundError: Where there is neither a file nor an encoder of that name.
        ValueError: Where a file cannot be used.
    """
    every = threads or len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory(prefix="defm_rl-") as folder:
        return [
            _in_a_process(name, subject, count, seconds)
            for name, subject in _subjects(str(path_or_name), size, int8, Path(folder)).items()
            for count in dict.fromkeys((1, every))
        ]


def _subjects(given: str, size: tuple[int, int], int8: bool, folder: Path) -> dict[str, dict[str, Any]]:
    ours = {} if Path(given).is_file() else _of_an_encoder(given, size, folder)
    path = Path(ours["ONNX Runtime"]["path"]) if ours else Path(given)
    contract = _contract(path)
    files: dict[str, dict[str, Any]] = {"ONNX Runtime": {"kind": "file", "path": str(path)}}
    if int8 and contract.precision == "float32" and importlib.util.find_spec("onnx") is not None:
        files[INT8] = {"kind": "file", "path": str(quantized(path, folder))}
    return {**_published(contract), **ours, **files}


def _published(contract: Contract) -> dict[str, dict[str, Any]]:
    """The published network on as many images as the file sees in a step."""
    name = str(contract.made_by.get("encoder", {}).get("name"))
    if not name.startswith(f"{PUBLISHED}_") or importlib.util.find_spec(PUBLISHED) is None:
        return {}
    images = [(wanted.frames, wanted.height, wanted.width) for wanted in contract.depth]
    version = importlib.metadata.version(PUBLISHED)
    return {f"{PUBLISHED} {version}": {"kind": "published", "encoder": name, "images": images}}


def _of_an_encoder(given: str, size: tuple[int, int], folder: Path) -> dict[str, dict[str, Any]]:
    from defm_rl.encoders import find_card

    try:
        name = find_card(given).name
    except ValueError as error:
        raise FileNotFoundError(f"{given!r} is neither an exported file nor an encoder: {error}") from error
    from defm_rl.deploy.exporting import export_encoder

    exported = export_encoder(name, folder / "encoder.onnx", weights="random", image_size=size)
    common = {"encoder": name, "size": list(size)}
    return {
        "ours, eager": {"kind": "eager", **common},
        "encode": {"kind": "encode", **common},
        "ONNX Runtime": {"kind": "file", "path": str(exported.path)},
    }


def _contract(path: Path) -> Contract:
    from defm_rl.deploy.runtime import Policy

    return Policy(path, clock=None).contract


def quantized(path: Path, folder: Path) -> Path:
    """An exported file in int8, its ranges calibrated on random frames: good for its time alone."""
    from defm_rl.deploy import onnx_files

    contract, made = _contract(path), folder / f"{path.stem}.int8.onnx"
    shutil.copy(path, made)
    memory = {f"{part.name}_in": np.zeros((part.shape[0], 1, part.shape[1]), np.float32) for part in contract.memory}
    onnx_files.quantize(made, [{**_made_up(contract, seed, counts=True), **memory} for seed in range(_FRAMES)])
    onnx_files.put_in_place(made, made, dataclasses.replace(contract, precision="int8"))
    return made


def _made_up(contract: Contract, seed: int = 0, counts: bool = False) -> dict[str, NDArray[Any]]:
    """A batch of one observation by name, depth in metres, or as the graph takes it."""
    rng = np.random.default_rng(seed)
    observations: dict[str, NDArray[Any]] = {}
    for wanted in contract.inputs:
        if isinstance(wanted, DepthInput):
            far_m = min(5.0, wanted.max_depth_m or math.inf)  # beyond the limit there are holes alone
            depth_m = rng.uniform(far_m / 10, far_m, (1, *wanted.shape))
            observations[wanted.name] = (depth_m / (wanted.metres_per_count if counts else 1)).astype(np.float32)
        else:
            observations[wanted.name] = np.zeros((1, *wanted.shape), wanted.dtype)
    return observations


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
        step = _file_step(Path(request["path"]), request["threads"])
    else:
        step = _published_step(request) if request["kind"] == "published" else _torch_step(request)
    return _timed(step, request["seconds"], started)


def _file_step(path: Path, threads: int) -> Callable[[], Any]:
    from defm_rl.deploy.runtime import Policy

    policy = Policy(path, clock=None, threads=threads, depth_unit="m")
    observations: dict[str, Any] = dict(_made_up(policy.contract))
    return lambda: policy.act(**observations)


def _published_step(request: Mapping[str, Any]) -> Callable[[], Any]:
    import torch

    from defm_rl.deploy import upstream

    torch.set_num_threads(request["threads"])
    name = request["encoder"]
    model = upstream.load(name)
    rng = np.random.default_rng(0)
    depths = [torch.from_numpy(rng.uniform(0.5, 5.0, shape).astype(np.float32)) for shape in request["images"]]

    def step() -> None:
        with torch.inference_mode():
            for depth in depths:
                upstream.global_features(model, upstream.preprocessed(depth, name))

    return step


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
