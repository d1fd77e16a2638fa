"""A plain loop: any camera, any robot, one exported policy.

python examples/deploy/loop.py policy.onnx                    # a camera that is made up
python examples/deploy/loop.py policy.onnx --frames frames.npy    # recorded depth, (N, H, W) metres
python examples/deploy/loop.py policy.onnx --realsense        # an Intel RealSense
"""

import argparse
import itertools
import logging
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from sources import MadeUp, RealSense, Recorded, Source

from defm_rl.deploy import Policy

_logger = logging.getLogger("loop")


def measured(policy: Policy) -> dict[str, NDArray[np.float32]]:
    """What the robot's own sensors say, in the order of the contract's `entries`: to be filled in for a robot."""
    return {wanted.name: np.zeros(wanted.shape, np.float32) for wanted in policy.contract.vectors}


def ticks(step_s: float) -> Iterator[int]:
    """Comes back every `step_s` seconds; where a step took longer, at once."""
    begun = time.monotonic()
    for step in itertools.count():
        time.sleep(max(0.0, begun + step * step_s - time.monotonic()))
        yield step


def drive(path: str, source: Source, steps: int) -> Policy:
    """Acts on what a camera shows, for so many steps."""
    policy = Policy(path, camera=source.camera, depth_unit=source.unit, outside=source.outside, record_s=10.0)
    (wanted,) = policy.contract.depth
    try:
        for _ in itertools.islice(ticks(policy.contract.step_s or 0.1), steps):
            depth, stamp_s = source.frame()
            action = policy.act(stamp_s=stamp_s, **{wanted.name: depth}, **measured(policy))  # type: ignore[arg-type]
            command = policy.command(action) if policy.contract.action.scale else action
            _logger.info("%s", np.array2string(command, precision=3))  # hand it to the robot here
    except ValueError:
        if len(policy.record):
            policy.record.write("record.npz")  # the last seconds before it went wrong
        raise
    _logger.info("%s", policy.latency.summary())
    return policy


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", help="a file that `defm-rl export` wrote")
    parser.add_argument("--frames", help="recorded depth: .npy, (N, H, W), metres, of the training's camera")
    parser.add_argument("--realsense", action="store_true", help="an Intel RealSense")
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    source: Source
    if arguments.realsense:
        source = RealSense()
    elif arguments.frames:
        source = Recorded(np.load(arguments.frames))
    else:
        source = MadeUp(*Policy(arguments.policy).contract.depth[0].size)
    drive(arguments.policy, source, arguments.steps)


if __name__ == "__main__":
    main()
