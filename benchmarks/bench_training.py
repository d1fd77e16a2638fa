"""Whole training, the number that users feel: PPO and SAC on the navigation task for the same steps, in turns.

(a) the published model in a features extractor written by hand, frozen; (b) ours in the policy, frozen; (c) ours
encoded once; (d) Stable-Baselines3's NatureCNN from scratch. Random weights: time does not depend on them.
"""

import argparse
import logging
import time
from typing import Any

import gymnasium
import harness
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

import defm_rl.envs  # noqa: F401  registers the task
from defm_rl import DepthEncoder
from defm_rl.deploy import upstream
from defm_rl.kernels import cpu
from defm_rl.sb3 import DefmExtractor, FeatureProjection, GymnasiumVecEnv, VecEncodeDepth

SIZE = (64, 64)
LATENT_DIM = 64


class PublishedExtractor(BaseFeaturesExtractor):
    """What is written by hand today: preprocessing and the published model in every forward pass."""

    def __init__(self, observation_space: spaces.Dict, name: str) -> None:
        width = DepthEncoder(name, weights="random").feature_dim
        super().__init__(observation_space, width + observation_space["state"].shape[0])  # type: ignore[index]
        net = DepthEncoder(name, weights="random").net
        self.model = upstream.load(name, dict(net.named_buffers())).requires_grad_(False)

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(B, features_dim)."""
        with torch.no_grad():
            x = upstream.preprocess_depth_batch(observations["depth"], device=observations["depth"].device)
            features = upstream.global_features(self.model, x)
        return torch.cat([features, observations["state"]], dim=1)


class NatureExtractor(BaseFeaturesExtractor):
    """SB3's CNN on depth, trained from scratch."""

    def __init__(self, observation_space: spaces.Dict) -> None:
        super().__init__(observation_space, LATENT_DIM + observation_space["state"].shape[0])  # type: ignore[index]
        self.cnn: nn.Module = NatureCNN(observation_space["depth"], LATENT_DIM, normalized_image=True)  # type: ignore[arg-type]

    def forward(self, observations: dict[str, Tensor]) -> Tensor:
        """(B, features_dim)."""
        return torch.cat([self.cnn(observations["depth"] / 10.0), observations["state"]], dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--encoders", nargs="*", default=["defm_resnet18", "defm_regnet_y_400mf"])
    parser.add_argument("--algorithms", nargs="*", default=["ppo", "sac"])
    parser.add_argument("--steps", type=int, default=2048, help="of PPO; SAC takes an eighth")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    for algorithm in args.algorithms:
        rows: list[dict[str, object]] = []
        steps = args.steps if algorithm == "ppo" else args.steps // 8
        for name in args.encoders:
            ways = {
                "a: published model in the policy": (PublishedExtractor, {"name": name}),
                "b: DefmExtractor in the policy": (DefmExtractor, {"encoder": name, "weights": "random"}),
                "c: VecEncodeDepth, once per frame": (FeatureProjection, {"latent_dim": LATENT_DIM}),
                "c in bfloat16": (FeatureProjection, {"latent_dim": LATENT_DIM}),
                "d: NatureCNN from scratch": (NatureExtractor, {}),
            }
            if not cpu.multiplies_bfloat16():
                del ways["c in bfloat16"]
            spent: dict[str, list[float]] = {way: [] for way in ways}
            parts: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
            stored: dict[str, int] = {}
            for _ in range(args.rounds):
                for way, (extractor, kwargs) in ways.items():
                    env = _env(name if way.startswith("c") else None, "bfloat16" if "bfloat16" in way else "float32")
                    model = _model(algorithm, env, extractor, kwargs)
                    with harness.timed_parts([("encode", DepthEncoder, "encode"), ("train", model, "train")]) as part:
                        start = time.perf_counter()
                        model.learn(steps)
                        spent[way].append(time.perf_counter() - start)
                    parts[way].append(part)
                    stored[way] = _bytes_per_transition(model)
                    env.close()
                    harness.logger.info("%s %s %s %.1f s", algorithm, name, way, spent[way][-1])
            medians = {way: float(np.median(seconds)) for way, seconds in spent.items()}
            first, *_, last = medians.values()
            for way, seconds in medians.items():
                rows.append(
                    {
                        "algorithm": algorithm,
                        "encoder": name.removeprefix("defm_"),
                        "way": way,
                        "s": round(seconds, 2),
                        "steps/s": round(steps / seconds),
                        "times faster than a": round(first / seconds, 2),
                        "time of d": round(seconds / last, 2),
                        "encoding s": round(float(np.median([p["encode"] for p in parts[way]])), 2),
                        "updates s": round(float(np.median([p["train"] for p in parts[way]])), 2),
                        "bytes per transition": stored[way],
                        "spread": harness.spread(spent[way]),
                    }
                )
        harness.save(f"training_{algorithm}", rows, envs=8, depth=f"{SIZE[0]}x{SIZE[1]}")


def _env(encoder: str | None, precision: str) -> VecEnv:
    tasks = gymnasium.make_vec("defm_rl/Navigation-v0", num_envs=8, level="one_wall", depth_size=SIZE)
    env: VecEnv = GymnasiumVecEnv(tasks)
    env.seed(0)
    return env if encoder is None else VecEncodeDepth(env, encoder, weights="random", precision=precision)


def _model(algorithm: str, env: VecEnv, extractor: type[BaseFeaturesExtractor], kwargs: dict[str, Any]) -> PPO | SAC:
    policy_kwargs = {
        "features_extractor_class": extractor,
        "features_extractor_kwargs": kwargs,
        "normalize_images": False,
        "net_arch": [64, 64],
    }
    if algorithm == "ppo":
        return PPO(
            "MultiInputPolicy", env, n_steps=128, n_epochs=10, batch_size=256, policy_kwargs=policy_kwargs, seed=0
        )
    return SAC(
        "MultiInputPolicy",
        env,
        buffer_size=4096,
        learning_starts=128,
        batch_size=128,
        gradient_steps=2,
        policy_kwargs=policy_kwargs,
        seed=0,
    )


def _bytes_per_transition(model: PPO | SAC) -> int:
    """What the buffer holds of depth for each environment step."""
    if isinstance(model, PPO):
        buffer: Any = model.rollout_buffer
        arrays = [buffer.observations["depth"]]
        steps = buffer.buffer_size * buffer.n_envs
    else:
        buffer = model.replay_buffer
        arrays = [buffer.observations["depth"], buffer.next_observations["depth"]]
        steps = buffer.buffer_size * buffer.n_envs
    return sum(array.nbytes for array in arrays) // steps


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
