"""What the Isaac Lab observation term costs beyond its encoder; run it with `.venv-isaaclab/bin/python`.

Eight environments at 64x64; every frame differs from the one before. The term's share is what it does beside encoding:
reading, cleaning, comparing, copying. Medians, measured in turns.
"""

import statistics
import time

import torch
from isaaclab.envs import ManagerBasedRLEnv
from isaaclab_tasks.utils import parse_env_cfg

import defm_rl.envs.isaaclab  # noqa: F401  (registers the tasks)

NUM_ENVS, REPEATS = 8, 100


def main() -> None:
    cfg = parse_env_cfg("defm_rl/Isaac-Navigation-v0", device="cpu", num_envs=NUM_ENVS)
    cfg.scene.camera.height = cfg.scene.camera.width = 64
    cfg.observations.depth.features.params["weights"] = "random"
    env = ManagerBasedRLEnv(cfg)
    env.reset(seed=0)
    encoded = env.observation_manager._group_obs_class_term_cfgs["depth"][0].func.encoded
    encoder = encoded.encoder
    output = env.scene.sensors["camera"].data.output["depth"].torch
    term_ms, encoder_ms = [], []
    for repeat in range(REPEATS + 10):
        with torch.inference_mode():
            output += 1e-3  # a frame that nobody has seen
        depth = output[..., 0].clone()
        start = time.perf_counter()
        encoder.encode(depth)
        middle = time.perf_counter()
        encoded.features(repeat)
        end = time.perf_counter()
        if repeat >= 10:
            encoder_ms.append((middle - start) * 1e3)
            term_ms.append((end - middle) * 1e3)
    alone, whole = statistics.median(encoder_ms), statistics.median(term_ms)
    print(f"{NUM_ENVS} environments, 64x64, {encoder.encoder_name} on {torch.get_num_threads()} threads")
    print(f"encoder alone {alone:.3f} ms, term {whole:.3f} ms: {100 * (whole / alone - 1):+.1f} %")
    env.close()


if __name__ == "__main__":
    main()
