"""One frame on one thread in the robot's runtimes: exported encoders and whole policies against the published package.

The whole policies are those of experiments, trained for a few steps with random weights: what they do is of no account.
Beside them stands the published preprocessing and network, operation by operation, with the same head behind it.
All in processor time, which other processes disturb less than the clock. OpenVINO runs in a process of its own.
"""

import argparse
import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import harness
import numpy as np
import torch
from torch import Tensor, nn

from defm_rl import DepthEncoder
from defm_rl.commands import train
from defm_rl.deploy import Policy, export_encoder, upstream
from defm_rl.deploy.exporting import write
from defm_rl.deploy.policies import Exportable
from defm_rl.deploy.runs import exportable_run
from defm_rl.encoders.zoo import CARDS
from defm_rl.observations import over_cameras

SIZES = ((64, 64), (96, 160), (224, 224))
BUDGET_S, ROUNDS = 3.0, (15, 40)
SHORT = ["env.num_envs=2", "algo.total_steps=32", "evaluation.episodes=2", "evaluation.clips=0"]
POLICIES = {
    "quickstart": ["experiment=quickstart", "algo.n_steps=16"],
    "quickstart_resnet18": ["experiment=quickstart", "algo.n_steps=16", "encoder=resnet18"],
    "locomotion_student": ["experiment=locomotion_student"],
}
Inputs = dict[str, np.ndarray]


def spent_s(calls: Mapping[str, Callable[[], object]]) -> dict[str, list[float]]:
    """Seconds of the processor that each call takes, in turns."""
    spent: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for _ in range(3):
        for call in calls.values():
            call()
    turns = int(BUDGET_S / (time.perf_counter() - started) * 3)
    for _ in range(min(max(turns, ROUNDS[0]), ROUNDS[1])):
        for name, call in calls.items():
            start = time.process_time()
            call()
            spent[name].append(time.process_time() - start)
    return spent


def openvino(path: str, inputs_path: str) -> None:
    """Writes the milliseconds of one step in OpenVINO."""
    from openvino import Core  # type: ignore[import-not-found]

    core = Core()
    model = core.read_model(path)
    inputs = dict(np.load(inputs_path))
    model.reshape({name: list(array.shape) for name, array in inputs.items()})
    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    sys.stdout.write(f"{harness.median_ms(spent_s({'it': lambda: request.infer(inputs)})['it'])}\n")


def in_openvino(path: Path, inputs: Inputs) -> float:
    """The milliseconds of `openvino`."""
    saved = path.with_suffix(".npz")
    np.savez(saved, **inputs)  # type: ignore[arg-type]
    script = f"import bench_runtimes; bench_runtimes.openvino({str(path)!r}, {str(saved)!r})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    return float(done.stdout.split()[-1])


def in_turns(calls: dict[str, Callable[[], object]], files: dict[str, Path], observations: Inputs) -> dict[str, object]:
    """Milliseconds of each call, of files in ONNX Runtime, of one in OpenVINO; and as shares of the first call's."""
    policies = {name: Policy(path, clock=None, depth_unit="m") for name, path in files.items()}
    whole, path = policies["ONNX Runtime"], files["ONNX Runtime"]
    calls = calls | {name: partial(policy.act, **observations) for name, policy in policies.items()}
    ms = {way: harness.median_ms(spent) for way, spent in spent_s(calls).items()}
    memory = {f"{x.name}_in": np.zeros((x.shape[0], 1, x.shape[1]), np.float32) for x in whole.contract.memory}
    ms["OpenVINO"] = in_openvino(path, {**observations, **memory})
    first, *others = ms
    return {
        **{f"{way} ms": value for way, value in ms.items()},
        **{f"{way} / {first}": round(ms[way] / ms[first], 2) for way in others},
    }


def encoder_row(name: str, size: tuple[int, int], folder: Path) -> dict[str, object]:
    """One encoder at one size: depth in metres to global features."""
    encoder = DepthEncoder(name, weights="random", image_size=size)
    published = upstream.load(name, dict(encoder.net.named_buffers()))
    path = folder / f"{name}-{size[0]}x{size[1]}.onnx"
    if not path.exists():
        export_encoder(encoder, path, image_size=size)
    depth = np.random.default_rng(0).uniform(0.5, 8.0, (1, 1, *size)).astype(np.float32)

    def run_published() -> Tensor:
        with torch.inference_mode():
            return upstream.global_features(published, upstream.preprocessed(torch.from_numpy(depth), name))

    calls = {"published": run_published, "encode": lambda: encoder.encode(depth)}
    row: dict[str, object] = {"encoder": name.removeprefix("defm_"), "size": f"{size[0]}x{size[1]}"}
    return row | in_turns(calls, {"ONNX Runtime": path}, {"depth": depth})


class PublishedEncode(nn.Module):
    """`defm_rl.deploy.graph.Encode` with the published preprocessing and network."""

    def __init__(self, whole: Exportable) -> None:
        super().__init__()
        assert whole.encoder is not None
        self.layouts = {key: whole.layouts[key] for key in whole.encoded}
        self.encoder = whole.encoder
        self.net = upstream.load(self.encoder.encoder_name, dict(self.encoder.net.named_buffers()))

    def forward(self, observations: dict[str, Tensor]) -> dict[str, Tensor]:
        """The observations by name, (B, ...)."""
        return {**observations, **over_cameras(self.layouts, observations, self._features)}

    def _features(self, images: Tensor) -> Tensor:
        encoder = self.encoder
        fused = encoder.bifpn and encoder.features != ("global",)
        channels = upstream.preprocessed(images, encoder.encoder_name, for_bifpn=fused)
        given: Any = self.net(channels) if fused else self.net.forward_no_bifpn(channels)
        maps = given["dense_bifpn" if fused else "dense_feats"]
        wanted = [
            given["global_backbone"] if name == "global" else encoder.pools[name](maps[name])
            for name in encoder.features
        ]
        return torch.cat(wanted, 1)


def policy_row(name: str, size: tuple[int, int], folder: Path) -> dict[str, object]:
    """One experiment's policy, with cameras of one size: a step as the robot takes it, depth in metres to action."""
    run = folder / f"{name}-{size[0]}x{size[1]}"
    if not run.exists():
        settings = [*POLICIES[name], f"env.depth_size=[{size[0]},{size[1]}]", f"hydra.run.dir={run}"]
        settings += [*SHORT, "encoder.weights=random"]
        if name.endswith("_student"):
            teacher = folder / name.replace("_student", "_teacher")
            if not teacher.exists():
                assert train.main([f"experiment={teacher.name}", *SHORT, f"hydra.run.dir={teacher}"]) == 0
            settings.append(f"teacher={teacher}")
        assert train.main(settings) == 0
    whole, facts = exportable_run(run)
    assert whole.record is not None
    frames = whole.record(2)
    path, small = (folder / f"{run.name}.{precision}.onnx" for precision in ("float32", "int8"))
    for file in (path, small):
        if not file.exists():
            write(whole, file, "onnx", file.suffixes[0][1:], frames, facts)
    observations = {name: array[:1] for name, array in whole.arrays(frames[-1]).items()}
    theirs = whole.graph()
    theirs.stages["features"] = PublishedEncode(whole).requires_grad_(False)
    tensors = [*(torch.from_numpy(array) for array in observations.values()), *whole.zeros(1)]

    def run_published() -> object:
        with torch.inference_mode():
            return theirs(*tensors)

    calls: dict[str, Callable[[], Any]] = {"published": run_published, "ours": lambda: whole.act(observations)}
    expected, got = run_published()[0].numpy(), calls["ours"]()  # type: ignore[index]
    assert np.allclose(expected, got, atol=1e-3), (expected, got)
    row: dict[str, object] = {"policy": name, "cameras": len(whole.layouts), "size": f"{size[0]}x{size[1]}"}
    return row | in_turns(calls, {"ONNX Runtime": path, "int8": small}, observations)


def add(name: str, row: dict[str, object]) -> None:
    """Saves a row in the place of that of the same encoder or policy and size, beside the others."""
    path = harness.RESULTS / f"{name}.json"
    before = json.loads(path.read_text())["rows"] if path.exists() else []

    def case(row: Mapping[str, object]) -> tuple[object, object]:
        return row.get("encoder", row.get("policy")), row["size"]

    rows = {case(row): row for row in [*before, row]}
    harness.write(name, list(rows.values()), threads_used=1)
    logging.info("%s", row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="*", default=[name for name in CARDS if name != "defm_vit_l14"])
    parser.add_argument("--policies", nargs="*", default=list(POLICIES))
    parser.add_argument("--sizes", nargs="*", default=SIZES, type=lambda text: tuple(map(int, text.split("x"))))
    parser.add_argument("--folder", type=Path, default=Path("runs/runtimes"), help="keeps runs and exported files")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder = args.folder.resolve()
    args.folder.mkdir(parents=True, exist_ok=True)
    for size in args.sizes:
        for name in args.encoders:
            add("runtimes", encoder_row(name, size, args.folder))
        for name in args.policies:
            add("policies", policy_row(name, size, args.folder))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
