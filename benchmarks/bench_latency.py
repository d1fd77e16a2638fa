"""The robot's case: one frame, one thread, depth in and features out, against the published package.

And `encode` of growing batches, in time and in memory, which chunking bounds.
"""

import argparse
import logging
import resource
import subprocess
import sys
from pathlib import Path

import harness
import torch

from defm_rl import DepthEncoder
from defm_rl.deploy import upstream
from defm_rl.encoders.zoo import CARDS

SIZES = ((64, 64), (96, 160), (224, 224))


def latency(encoders: list[str]) -> list[dict[str, object]]:
    """Milliseconds from metric depth to global features."""
    torch.set_num_threads(1)
    rows: list[dict[str, object]] = []
    for name in encoders:
        encoder = DepthEncoder(name, weights="random")
        published = upstream.load(name, dict(encoder.net.named_buffers()))
        for height, width in SIZES:
            depth = torch.rand(1, height, width) * 8

            def run_published(
                depth: torch.Tensor = depth, model: torch.nn.Module = published, name: str = name
            ) -> torch.Tensor:
                with torch.inference_mode():
                    return upstream.global_features(model, upstream.preprocessed(depth, name))

            def run_ours(depth: torch.Tensor = depth, encoder: DepthEncoder = encoder) -> torch.Tensor:
                return encoder.encode(depth)

            spent = harness.in_turns({"published": run_published, "ours": run_ours}, budget_s=1.0, rounds=(5, 50))
            a, b = (harness.median_ms(spent[key]) for key in ("published", "ours"))
            rows.append(
                {
                    "encoder": name.removeprefix("defm_"),
                    "size": f"{height}x{width}",
                    "published ms": a,
                    "ours ms": b,
                    "times faster": round(a / b, 2),
                    "spread": max(map(harness.spread, spent.values())),
                }
            )
    return rows


def scale(name: str, size: tuple[int, int], batch: int, chunk: int) -> dict[str, object]:
    """Time and memory of `encode` in a process of its own, since a peak cannot be reset."""
    script = f"import bench_latency; bench_latency.encode_once({name!r}, {size}, {batch}, {chunk})"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=Path(__file__).parent
    )
    ms, peak_mb = map(float, done.stdout.split()[-2:])
    return {
        "encoder": name.removeprefix("defm_"),
        "size": f"{size[0]}x{size[1]}",
        "frames": batch,
        "ms": ms,
        "frames/s": round(batch / ms * 1e3),
        "memory MB": round(peak_mb),
    }


def encode_once(name: str, size: tuple[int, int], batch: int, chunk: int) -> None:
    """Writes the milliseconds of `encode` and by how many MB the process grew."""
    encoder = DepthEncoder(name, weights="random")
    encoder.encode(torch.rand(2, *size))
    depth = torch.rand(batch, *size) * 8
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spent = harness.in_turns({"encode": lambda: encoder.encode(depth, chunk=chunk)}, budget_s=1.0, rounds=(1, 10))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    sys.stdout.write(f"{harness.median_ms(spent['encode'])} {grown / 1024:.1f}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="*", default=[name for name in CARDS if name != "defm_vit_l14"])
    args = parser.parse_args()
    cases = [("defm_regnet_y_400mf", (64, 64), 4**k, 1024) for k in range(7)]
    cases += [("defm_resnet18", (64, 64), 4**k, 1024) for k in range(7)]
    cases += [("defm_regnet_y_400mf", side, 64, 1024) for side in ((48, 96), (96, 160), (224, 224))]
    harness.save("scale", [scale(*case) for case in cases])
    harness.save("latency", latency(args.encoders), threads_used=1)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
