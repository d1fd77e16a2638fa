"""Configurations of RSL-RL's models and algorithms that see, for mjlab's runner configurations."""

from dataclasses import dataclass

from mjlab.rl import RslRlModelCfg, RslRlPpoAlgorithmCfg

from defm_rl.terms.rsl_rl import ModelSettings, PpoSettings

__all__ = ["DefmModelCfg", "EncoderPpoCfg"]


@dataclass
class DefmModelCfg(ModelSettings, RslRlModelCfg):
    """A model that sees, see `ModelSettings`."""


@dataclass
class EncoderPpoCfg(PpoSettings, RslRlPpoAlgorithmCfg):
    """PPO that trains the encoder, see `PpoSettings`."""
