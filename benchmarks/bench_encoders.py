"""Encoders' forward pass against the published models with the same weights, on the same channels, in one process.

Both give the global features without the BiFPN, from normalized channels. On a CPU the published model runs as its
users run it (eager, all threads), ours as `DepthEncoder.encode` does. Cases beyond `--largest` GFLOP are left out.
"""

import argparse
import logging
from collections.abc import Callable

import harness
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from defm_rl import DepthEncoder
from defm_rl.deploy import upstream
from defm_rl.encoders.zoo import CARDS

SIZES = ((64, 64), (48, 96), (96, 160), (224, 224))
BATCHES = (1, 16, 128, 1024)
WITHOUT = "defm_vit_l14"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--encoders", nargs="*", default=[name for name in CARDS if name != WITHOUT])
    parser.add_argument("--precisions", nargs="*", default=["float32"])
    parser.add_argument("--batches", type=int, nargs="*", default=BATCHES)
    parser.add_argument("--largest", type=float, default=300.0, help="GFLOP of a batch")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds for each case")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of both")
    parser.add_argument("--name", default="encoders", help="of the file with the results")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    peak = harness.peak_gflops(args.threads) if args.device == "cpu" else float("nan")
    facts = {"matmul_gflop_s": round(peak, 1), "threads_used": args.threads}
    rows: list[dict[str, object]] = []
    for name in args.encoders:
        for size in SIZES:
            gflop = _gflop(name, size)
            for batch in args.batches:
                if batch * gflop <= args.largest:
                    rows += _measure(name, size, batch, gflop, args, peak)
                    harness.logger.info("%s", rows[-1])
        harness.write(f"{args.name}_{args.device}", rows, **facts)  # what is measured is kept, whatever comes
    harness.save(f"{args.name}_{args.device}", rows, **facts)


def _measure(
    name: str, size: tuple[int, int], batch: int, gflop: float, args: argparse.Namespace, peak: float
) -> list[dict[str, object]]:
    encoders = {p: DepthEncoder(name, weights="random", precision=p).to(args.device) for p in args.precisions}
    net = next(iter(encoders.values())).net
    published = upstream.load(name, dict(net.named_buffers())).to(args.device)
    height, width = (side // 14 * 14 for side in size) if "vit" in name else size
    x = torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(0)).to(args.device)

    def run_published() -> Tensor:
        with torch.inference_mode():
            return upstream.global_features(published, x)

    calls: dict[str, Callable[[], object]] = {"published": run_published}
    calls |= {precision: _on_channels(encoder, x) for precision, encoder in encoders.items()}
    expected = run_published()
    spent = harness.in_turns(calls, budget_s=args.budget)
    published_ms = harness.median_ms(spent["published"])
    rows = []
    for precision in encoders:
        features = calls[precision]()
        assert isinstance(features, Tensor)
        ms = harness.median_ms(spent[precision])
        rows.append(
            {
                "encoder": name.removeprefix("defm_"),
                "size": f"{height}x{width}",
                "batch": batch,
                "precision": precision,
                "published ms": published_ms,
                "ours ms": ms,
                "times faster": round(published_ms / ms, 2),
                "GFLOP": round(batch * gflop, 3),
                "share of matmul peak": round(batch * gflop / ms * 1e3 / peak, 2),
                "relative error": float(f"{(features - expected).norm() / expected.norm():.1e}"),
                "spread": max(harness.spread(spent["published"]), harness.spread(spent[precision])),
            }
        )
    return rows


def _on_channels(encoder: DepthEncoder, x: Tensor) -> Callable[[], Tensor]:
    """`encode` from the normalized channels on: the normalization has a benchmark of its own."""
    encoder._normalized = lambda channels, dtype=None: channels.to(dtype or torch.float32)  # type: ignore[method-assign]
    runner = encoder._frozen_runner()

    def run() -> Tensor:
        with torch.no_grad():
            return runner(x)

    return run


def _gflop(name: str, size: tuple[int, int]) -> float:
    encoder = DepthEncoder(name, weights="random")
    height, width = (side // 14 * 14 for side in size) if "vit" in name else size
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        encoder._pooled(torch.zeros(1, 3, height, width))
    return counter.get_total_flops() / 1e9


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
