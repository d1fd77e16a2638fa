"""What a simulated sensor costs an observation term beside its encoding; needs no simulator.

64 environments at 64x64; every frame differs from the one before. A sensor's share is the time of reading the camera
and measuring to that of encoding what was read, of wall time and, since other processes change it less, of processor
time. Medians, measured in turns.
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
    parser.add_argument("--encoders", nargs="+", default=["defm_resnet18", "defm_regnet_y_400mf"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()
    encoders = {
        name: DepthEncoder(name, weights="random", features="P3", bifpn=False, image_size=IMAGE).to(options.device)
        for name in options.encoders
    }
    depth = torch.rand(NUM_ENVS, *IMAGE, device=options.device).cumsum(2) / 8 + 0.5
    shown = [depth]
    camera = Frames({"camera": shown}, "camera")
    cameras = {
        name: SensedCamera(camera, name, NUM_ENVS, step_s=STEP_S, device=options.device)
        for name in SENSORS
        if name != "ideal"
    }
    calls = {name: lambda step, encoder=encoder: encoder.encode(shown[0]) for name, encoder in encoders.items()}
    calls |= {name: sensed.read for name, sensed in cameras.items()}
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for step in range(options.repeats + 1):
        shown[0] = depth + 1e-3 * step
        for name, call in calls.items():
            wall_s, cpu_s = time.perf_counter(), time.process_time()
            call(step)
            if depth.is_cuda:
                torch.cuda.synchronize()
            if step:  # the first warms up
                spent[name].append((time.perf_counter() - wall_s, time.process_time() - cpu_s))
    wall_ms, cpu_ms = (
        {name: 1e3 * statistics.median(turn[clock] for turn in turns) for name, turns in spent.items()}
        for clock in (0, 1)
    )
    print(f"{NUM_ENVS} environments, 64x64, {options.device}, {torch.get_num_threads()} threads; wall, processor time")
    for name in calls:
        shares = [
            f"{wall_ms[name] / wall_ms[encoder]:.1%}, {cpu_ms[name] / cpu_ms[encoder]:.1%} of {encoder}"
            for encoder in encoders
            if name not in encoders
        ]
        print("; ".join([f"{name:20} {wall_ms[name]:7.2f}, {cpu_ms[name]:7.2f} ms", *shares]))


if __name__ == "__main__":
    main()
