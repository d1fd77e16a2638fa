"""Normalization of depth against the published `preprocess_depth_batch`: batches, sizes, with and without resizing."""

import argparse
import logging

import harness
import torch

from defm_rl import normalize_depth
from defm_rl.deploy import upstream
from defm_rl.encoders.inference import _keep_freed_memory

# Frames, height, width, and the size to resize to; depth to 10 m.
CASES = [
    *((frames, *size, None) for size in ((64, 64), (48, 96), (96, 160), (224, 224)) for frames in (1, 16, 64, 256)),
    *((frames, 480, 640, None) for frames in (1, 16, 64)),
    *((frames, *size, 224) for size in ((96, 160), (480, 640)) for frames in (1, 16, 64)),
    *((frames, 240, 320, (64, 64)) for frames in (1, 16, 64, 256)),
]
# Depth to 5 m: where nothing is beyond 9 m, one plane is resized, not two.
INDOORS = [case for case in CASES if case[3]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--budget", type=float, default=1.5, help="seconds for each case")
    args = parser.parse_args()
    # As in a process that encodes, which also serves the published code.
    _keep_freed_memory()
    copy_gb_s = harness.peak_copy_gb_s(args.device)
    rows: list[dict[str, object]] = []
    for (frames, height, width, size), farthest in [(case, 10) for case in CASES] + [(case, 5) for case in INDOORS]:
        depth = torch.rand(frames, height, width, device=args.device) * farthest
        depth[:, ::7, ::5] = 0.0
        target = size if size is None or isinstance(size, tuple) else (size, size)

        def published(depth: torch.Tensor = depth, target: tuple[int, int] | None = target) -> torch.Tensor:
            return upstream.preprocess_depth_batch(depth, target_size=target, device=args.device)

        def ours(depth: torch.Tensor = depth, target: tuple[int, int] | None = target) -> torch.Tensor:
            return normalize_depth(depth, target)

        torch.testing.assert_close(ours(), published(), rtol=1e-4, atol=1e-4)

        def bound(shape: tuple[int, ...] = (frames, 3, *(target or (height, width)))) -> torch.Tensor:
            return torch.empty(shape, device=args.device).fill_(1.0)

        # Whether memory is new depends on what was freed before: both run after the published code.
        calls = {"published": published, "ours": ours, "published again": published, "new memory": bound}
        spent = harness.in_turns(calls, budget_s=args.budget, awake=True)
        a, b, least = (harness.median_ms(spent[name]) for name in ("published", "ours", "new memory"))
        moved = depth.nbytes + ours().nbytes  # read once, written once: the least that there is to do
        rows.append(
            {
                "frames": frames,
                "size": f"{height}x{width}",
                "resized to": "-" if target is None else f"{target[0]}x{target[1]}",
                "to m": farthest,
                "published ms": a,
                "ours ms": b,
                "times faster": round(a / b, 2),
                "filling new memory ms": least,
                "share of copy bandwidth": round(moved / b * 1e-6 / copy_gb_s, 2),
                "spread": max(map(harness.spread, spent.values())),
            }
        )
    harness.save(f"normalization_{args.device}", rows, copy_gb_s=round(copy_gb_s, 1))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
