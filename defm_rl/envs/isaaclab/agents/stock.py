"""Configurations of Stable-Baselines3 and skrl for Isaac Lab's own tasks: the navigation's, for shorter steps."""

from pathlib import Path
from typing import Any

import yaml

_GAMMA = 0.99
_HIDDEN = [256, 128, 64]


def sb3_ppo() -> dict[str, Any]:
    """Of Stable-Baselines3."""
    cfg = _read("sb3_ppo.yaml")
    cfg.update(gamma=_GAMMA, n_steps=24)
    cfg["policy_kwargs"]["net_arch"] = _HIDDEN
    return cfg


def skrl_ppo() -> dict[str, Any]:
    """Of skrl."""
    cfg = _read("skrl_ppo.yaml")
    cfg["agent"].update(discount_factor=_GAMMA, rollouts=24)
    cfg["agent"]["experiment"]["directory"] = "defm_stock"
    cfg["trainer"]["timesteps"] = 48000
    for model in ("policy", "value"):
        cfg["models"][model]["network"][0]["layers"] = _HIDDEN
    return cfg


def _read(name: str) -> dict[str, Any]:
    cfg: dict[str, Any] = yaml.safe_load((Path(__file__).parent / name).read_text())
    return cfg
