"""What `env=gymnasium` adds to a step of somebody else's task, against the same by hand around a SyncVectorEnv.

By hand: the vector environment's step, the actions stretched to its bounds, its depth and the last frames of the
episodes that have ended encoded in one batch to float16, its vector made float32, success and failure read of each
episode. The task itself does next to nothing, so that what is added shows: physics and rendering make its share
smaller.

Both take the same step one after the other, in alternating order, on one thread: what slows the machine down slows both
of such a pair. Of wall time only the pairs count in which the core was given to no other process, which the kernel
counts. Shares are medians of the pairs' differences, with 95 % intervals.
"""

import argparse
import itertools
import math
import os
import resource
import statistics
import time

import gymnasium
import harness
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from defm_rl import DepthEncoder
from defm_rl.experiments.config import EncoderConfig, GymnasiumEnvConfig
from defm_rl.experiments.tasks import make_task

EPISODE = 50


class Task(gymnasium.Env):
    """Shows one of some frames. Whatever the seed, episodes end at the same steps."""

    begun = itertools.count()

    action_space = spaces.Box(-2.0, 2.0, (3,), np.float32)

    def __init__(self, size=(48, 64)):
        self.observation_space = spaces.Dict(
            {"depth": spaces.Box(0.0, 10.0, tuple(size), np.float32), "joints": spaces.Box(-3.0, 3.0, (8,), np.float64)}
        )
        self._frames = np.random.default_rng(0).uniform(0.5, 8.0, (16, *size)).astype(np.float32)
        self._joints, self._step = np.zeros(8), None

    def reset(self, *, seed=None, options=None):
        """Begins; the first time somewhere in an episode, so that not all end together."""
        self._step = next(Task.begun) % 8 * EPISODE // 8 if self._step is None else 0
        return {"depth": self._frames[0], "joints": self._joints}, {}

    def step(self, action):
        """Shows the next frame."""
        self._step += 1
        observation = {"depth": self._frames[self._step % 16], "joints": self._joints}
        return observation, 0.0, self._step >= EPISODE, False, {"is_success": self._step >= EPISODE}


gymnasium.register("bench/Theirs-v0", entry_point=Task)


class ByHand:
    """What somebody would write."""

    def __init__(self, env, encoder):
        self.env, self.encoder = env, encoder
        self.low, self.range = Task.action_space.low, Task.action_space.high - Task.action_space.low
        self.env.reset(seed=0)

    def step(self, action):
        """Steps, encodes, and reads success."""
        observation, reward, terminated, truncated, info = self.env.step(self.low + (action + 1) / 2 * self.range)
        depth = observation["depth"]
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            info["success"] = info["final_info"]["is_success"]
            info["failure"] = np.where(info["success"], "", "failure")
            depth = np.concatenate([depth, [info["final_obs"][index]["depth"] for index in ended]])
        seen = depth if self.encoder is None else self.encoder.encode(torch.from_numpy(depth)).half().numpy()
        num_envs = self.env.num_envs
        for row, index in enumerate(ended):
            last = info["final_obs"][index]
            info["final_obs"][index] = {"depth": seen[num_envs + row], "joints": last["joints"].astype(np.float32)}
        joints = observation["joints"].astype(np.float32)
        return {"depth": seen[:num_envs], "joints": joints}, reward, terminated, truncated, info


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, nargs="+", default=(8, 64))
    parser.add_argument("--encoder", default="defm_regnet_y_400mf")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.1f}; {harness.machine()}")
    for num_envs in options.num_envs:
        for name in (options.encoder, None):
            compare(num_envs, name, options.budget)


def compare(num_envs, name, budget_s):
    settings = EncoderConfig(kind="defm" if name else "cnn", name=name or "", weights="random", features=["P3"])
    encoder = None
    if name:
        encoder = DepthEncoder(name, weights="random", features=["P3"], image_size=(48, 64))
    makers = [lambda: gymnasium.make("bench/Theirs-v0")] * num_envs
    hand = ByHand(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), encoder)
    task = make_task(GymnasiumEnvConfig(id="bench/Theirs-v0", num_envs=num_envs))
    settings.cameras = ["depth"]
    ours = task.make_encoded(("depth", "joints"), settings, encoder)
    ours.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (EPISODE, num_envs, 3)).astype(np.float32)
    envs = {"by hand": hand, "env=gymnasium": ours}
    pairs: list[dict[str, tuple[float, float, int]]] = []
    until = time.monotonic() + budget_s
    for turn, action in enumerate(itertools.cycle(actions)):
        order = list(envs) if turn % 2 else list(envs)[::-1]
        pairs.append({kind: timed(envs[kind].step, action) for kind in order})
        if time.monotonic() > until:
            break
    pairs = pairs[EPISODE:]  # the first warm up
    undisturbed = [pair for pair in pairs if not any(switches for _, _, switches in pair.values())]
    print(f"{num_envs} environments, {name or 'no encoder'}")
    for index, (clock, chosen) in enumerate((("wall time", undisturbed), ("processor time", pairs))):
        if len(chosen) < 20:
            print(f"  {clock:15} {len(chosen)} pairs are too few")
            continue
        by_hand = statistics.median(pair["by hand"][index] for pair in chosen)
        added = [pair["env=gymnasium"][index] - pair["by hand"][index] for pair in chosen]
        low, middle, high = median_interval(added)
        print(
            f"  {clock:15} by hand {by_hand * 1e3:7.3f} ms a step; env=gymnasium {middle * 1e3:+.3f} ms, "
            f"{middle * 1e6 / num_envs:+.1f} us an environment, {middle / by_hand:+.1%} "
            f"({low / by_hand:+.1%} to {high / by_hand:+.1%}; {len(chosen)} of {len(pairs)} pairs)"
        )
    ours.close()


def timed(step, action):
    """Wall time and processor time, and how often other processes were given the core."""
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    step(action)
    wall_s, cpu_s = time.perf_counter() - wall_s, time.process_time() - cpu_s
    return wall_s, cpu_s, resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches


def median_interval(values):
    """The median between the ends of its 95 % interval, which are order statistics (binomial, by its normal limit)."""
    values = sorted(values)
    reach = 1.96 * math.sqrt(len(values)) / 2
    ends = (max(math.floor(len(values) / 2 - reach), 0), min(math.ceil(len(values) / 2 + reach), len(values) - 1))
    return values[ends[0]], statistics.median(values), values[ends[1]]


if __name__ == "__main__":
    main()
