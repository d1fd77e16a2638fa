"""What a simulated sensor costs an observation term beside its encoding; needs no simulator.

64 environments at 64x64; every frame differs from the one before. The sensor's share is the time of measuring to that
of encoding what was measured. Medians, measured in turns.
"""

import argparse
import statistics
import time

import torch

from defm_rl import DepthEncoder
from defm_rl.sensors import SENSORS
from defm_rl.terms.cameras import SceneCamera, SensedCamera

NUM_ENVS, IMAGE, STEP_S = 64, (64, 64), 0.05


class Frames(SceneCamera):
    """A camera that shows what it is told to."""

    image_size = IMAGE

    def _choose_data_type(self, name: str, asked: str, where: str) -> str:
        return "depth"

    def _image(self) -> torch.Tensor:
        return self._sensor[0]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", default="defm_regnet_y_400mf")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    encoder = DepthEncoder(options.encoder, weights="random", features="P3", bifpn=False, image_size=IMAGE)
    encoder = encoder.to(options.device)
    depth = torch.rand(NUM_ENVS, *IMAGE, device=options.device).cumsum(2) / 8 + 0.5
    shown = [depth]
    camera = Frames({"camera": shown}, "camera")
    cameras = {
        name: SensedCamera(camera, name, NUM_ENVS, step_s=STEP_S, device=options.device)
        for name in SENSORS
        if name != "ideal"
    }
    times: dict[str, list[float]] = {name: [] for name in ("encoder", *cameras)}

    def clock(name: str, start: float) -> None:
        if depth.is_cuda:
            torch.cuda.synchronize()
        times[name].append((time.perf_counter() - start) * 1e3)

    for step in range(options.repeats):
        shown[0] = depth + 1e-3 * step
        start = time.perf_counter()
        encoder.encode(shown[0])
        clock("encoder", start)
        for name, sensed in cameras.items():
            start = time.perf_counter()
            sensed.read(step)
            clock(name, start)
    alone = statistics.median(times["encoder"])
    print(f"{NUM_ENVS} environments, 64x64, {options.device}, {torch.get_num_threads()} threads")
    print(f"{options.encoder} alone {alone:.2f} ms")
    for name in cameras:
        taken = statistics.median(times[name])
        print(f"{name} {taken:.2f} ms: {100 * taken / alone:.1f} % of the encoding")


if __name__ == "__main__":
    main()
