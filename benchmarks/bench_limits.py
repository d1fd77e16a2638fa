"""What bounds encoding on a processor: its arithmetic, the memory that its operations move, or their number.

Beside the time of `encode` stand three limits. Arithmetic: the FLOP that are computed, fewer than the network's where
3x3 convolutions take fewer products, at the speed of a large matrix product.
Memory: what all operations read and write, weights and activations, at the speed of a large copy; less where they stay
in caches. Operations: one image of the smallest size, which costs next to no arithmetic, only launching and weights.
"""

import argparse
import logging

import harness
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from defm_rl import DepthEncoder

ENCODERS = ("defm_resnet18", "defm_resnet50", "defm_regnet_y_400mf", "defm_regnet_y_1_6gf", "defm_efficientnet_b0")
CASES = ((1, 64, 64), (8, 64, 64), (16, 64, 64), (128, 64, 64), (32, 48, 96), (1, 224, 224), (16, 224, 224))
SMALLEST = (1, 32, 32)


class Traffic(TorchDispatchMode):
    """Counts operations, and the bytes that they read and write; views cost nothing.

    And the arithmetic that 3x3 convolutions do without, in FLOP.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.bytes = 0
        self.saved_flop = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        read = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        written = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        memory = {x.untyped_storage().data_ptr() for x in read}
        is_view = all(x.untyped_storage().data_ptr() in memory for x in written) and not func._schema.is_mutable
        if not is_view:
            self.operations += 1
            self.bytes += sum(x.nbytes for x in read + written)
        if func.name() == "defm_rl::conv3x3":
            x, winograds, products, *_ = args
            channels, height, width = x.shape[1:]
            after_winograd, direct = 16 * -(-height // 2) * -(-width // 2), (3 * height - 2) * (3 * width - 2)
            each = 2 * len(x) * channels * written[0].shape[1]
            self.saved_flop += each * (9 * height * width - min(after_winograd, direct))
            self.bytes -= (winograds if direct <= after_winograd else products).nbytes  # it is not read
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="*", default=ENCODERS)
    parser.add_argument("--budget", type=float, default=1.5, help="seconds for each case")
    args = parser.parse_args()
    gflop_s, gb_s = harness.peak_gflops(torch.get_num_threads()), harness.peak_copy_gb_s("cpu")
    rows: list[dict[str, object]] = []
    for name in args.encoders:
        encoder, plain, counted = (DepthEncoder(name, weights="random", compile=way) for way in ("auto", "off", "auto"))
        counted.threads = 1  # what other threads do is not seen
        floor = _milliseconds(encoder, SMALLEST, args.budget)
        operations = _traffic(counted, SMALLEST).operations
        for case in CASES:
            ms = _milliseconds(encoder, case, args.budget)
            with FlopCounterMode(display=False) as flops:
                plain.encode(_depth(case))
            traffic = _traffic(counted, case)
            gflop, gigabytes = flops.get_total_flops() / 1e9, traffic.bytes / 1e9
            computed = gflop - traffic.saved_flop / 1e9
            rows.append(
                {
                    "encoder": name.removeprefix("defm_"),
                    "size": f"{case[1]}x{case[2]}",
                    "batch": case[0],
                    "ms": ms,
                    "GFLOP": round(gflop, 2),
                    "computed": round(computed, 2),
                    "arithmetic ms": round(computed / gflop_s * 1e3, 2),
                    "MB moved": round(gigabytes * 1e3, 1),
                    "memory ms": round(gigabytes / gb_s * 1e3, 2),
                    "operations": operations,
                    "operations ms": floor,
                }
            )
    harness.save("limits", rows, matmul_gflop_s=round(gflop_s, 1), copy_gb_s=round(gb_s, 1))


def _traffic(encoder: DepthEncoder, case: tuple[int, int, int]) -> Traffic:
    encoder.encode(_depth(case))
    with Traffic() as traffic:
        encoder.encode(_depth(case))
    return traffic


def _milliseconds(encoder: DepthEncoder, case: tuple[int, int, int], budget_s: float) -> float:
    depth = _depth(case)
    spent = harness.in_turns({"encode": lambda: encoder.encode(depth)}, budget_s=budget_s, rounds=(5, 100))
    return harness.median_ms(spent["encode"])


def _depth(case: tuple[int, int, int]) -> Tensor:
    return torch.rand(case, generator=torch.Generator().manual_seed(0)) * 10


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
