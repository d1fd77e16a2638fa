"""What readers of the documents are supposed to have."""

_MODEL = {"class_name": "defm_rl.rsl_rl:DefmModel"}

RSL_RL_SETTINGS = {
    "num_steps_per_env": 4,
    "save_interval": 1000,
    "obs_groups": {"actor": ["depth", "state"], "critic": ["depth", "state"]},
    "actor": {**_MODEL, "distribution_cfg": {"class_name": "GaussianDistribution"}},
    "critic": _MODEL,
    "algorithm": {"class_name": "PPO"},
}
