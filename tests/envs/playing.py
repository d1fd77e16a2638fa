"""Playing a task's layouts, for the tests of each task."""

import numpy as np


def all_do(env, action):
    """The same action in every environment."""
    return np.tile(np.asarray(action, np.float32), (env.num_envs, 1))


def run_episodes(env, policy, seeds):
    """Plays every layout once; results by layout seed."""
    env.reset(seed=0, options={"layout_seeds": seeds})
    results = {}
    for _ in range(env.max_episode_steps * len(seeds)):
        if len(results) == len(seeds):
            return results
        info = env.step(policy(env))[-1]
        ended = info.get("final_info", info)
        for i in np.flatnonzero(ended.get("_success", [])):
            if ended["layout_seed"][i] in seeds:
                results[int(ended["layout_seed"][i])] = {
                    name: values[i] for name, values in ended.items() if not name.startswith("_")
                }
    raise AssertionError(f"only {len(results)} of {len(seeds)} layouts were played")
