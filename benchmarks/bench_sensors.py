"""What each simulated camera costs beside encoding the same frames, on the CPU or a GPU; measured in turns."""

import argparse
import statistics
import time

import torch

from defm_rl import DepthEncoder
from defm_rl.sensors import SENSORS, SimulatedCamera


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--envs", type=int, default=256)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    depth = torch.rand(args.envs, args.size, args.size, device=args.device) * 4 + 0.5
    encoder = DepthEncoder("defm_resnet18", weights="random").to(args.device)
    calls = {"encode": encoder.encode}
    calls |= {name: SimulatedCamera(name, args.envs, step_s=0.05, device=args.device) for name in SENSORS}
    spent_s = {name: [] for name in calls}
    for turn in range(args.rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call(depth)
            if args.device != "cpu":
                torch.cuda.synchronize()
            if turn:  # the first warms up
                spent_s[name].append(time.perf_counter() - start)
    encode_s = statistics.median(spent_s["encode"])
    for name, times in spent_s.items():
        median_s = statistics.median(times)
        print(f"{name:20s}{median_s * 1e3:9.2f} ms {median_s / encode_s:8.1%} of encoding")


if __name__ == "__main__":
    main()
