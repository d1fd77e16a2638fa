"""How many control steps per second the navigation task makes, and where the time goes.

Random actions through the public `step` of the vector environment, no encoder: physics, rendering and resets.
"""

import argparse
import os
import platform
import statistics
import time

import gymnasium
import harness
import mujoco
import numpy as np

import defm_rl.envs  # noqa: F401 (registers the task)
from defm_rl.envs.rendering import default_threads


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, default=32)
    parser.add_argument("--level", default="two_walls")
    parser.add_argument("--renderer", default="auto")
    parser.add_argument("--depth-size", type=int, nargs=2, default=(48, 96))
    parser.add_argument("--steps", type=int, default=100, help="vector steps in a repeat")
    parser.add_argument("--repeats", type=int, default=20)
    options = parser.parse_args()

    env = gymnasium.make_vec(
        "defm_rl/Navigation-v0",
        num_envs=options.num_envs,
        level=options.level,
        renderer=options.renderer,
        depth_size=options.depth_size,
    ).unwrapped
    parts = [("physics", env, "_advance"), ("reset", env, "_restart"), ("render", env._depth, "render")]
    env.reset(seed=0)
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(options.steps)]
    rates, episodes, cpu_s, wall_s = [], 0, 0.0, 0.0
    with harness.timed_parts(parts) as spent_s:
        for repeat in range(options.repeats + 1):
            if repeat == 1:  # the first warms up
                spent_s.update(dict.fromkeys(spent_s, 0.0))
                episodes, cpu_s, wall_s = 0, 0.0, 0.0
            start, cpu_start = time.perf_counter(), time.process_time()
            for action in actions:
                _, _, terminated, truncated, _ = env.step(action)
                episodes += int((terminated | truncated).sum())
            elapsed_s = time.perf_counter() - start
            wall_s += elapsed_s
            cpu_s += time.process_time() - cpu_start
            rates.append(options.steps * options.num_envs / elapsed_s)
    rates = rates[1:]
    steps = options.steps * options.num_envs * options.repeats

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
    print(
        f"machine    {default_threads()} CPUs ({platform.processor() or platform.machine()}), load average {load:.1f}"
    )
    print(
        f"versions   python {platform.python_version()}, mujoco {mujoco.__version__}, numpy {np.__version__}, "
        f"gymnasium {gymnasium.__version__}"
    )
    height, width = options.depth_size
    print(f"task       {options.level}, {options.num_envs} environments, depth {height}x{width} by {env.renderer}")
    print(f"steps/s    median {statistics.median(rates):.0f}, best {max(rates):.0f}, worst {min(rates):.0f}")
    print(f"episodes   {steps / max(episodes, 1):.1f} steps long on average")
    spent_s["other"] = wall_s - sum(spent_s.values())
    for name, seconds in spent_s.items():
        print(f"{name:10} {1e3 * seconds / steps:.3f} ms per environment step ({seconds / wall_s:.0%})")
    print(f"cpu time   {1e3 * cpu_s / steps:.3f} ms per environment step, {cpu_s / wall_s:.2f} CPUs busy")
    env.close()


if __name__ == "__main__":
    main()
