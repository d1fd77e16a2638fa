"""Configurations of RSL-RL's models and algorithms that see, for Isaac Lab's runner configurations."""

from isaaclab.utils import configclass
from isaaclab_rl.rsl_rl import RslRlDistillationAlgorithmCfg, RslRlMLPModelCfg, RslRlPpoAlgorithmCfg

from defm_rl.terms.rsl_rl import DistillationSettings, ModelSettings, PpoSettings

__all__ = ["DefmModelCfg", "EncoderDistillationCfg", "EncoderPpoCfg"]


@configclass
class DefmModelCfg(ModelSettings, RslRlMLPModelCfg):
    """A model that sees, see `ModelSettings`."""


@configclass
class EncoderPpoCfg(PpoSettings, RslRlPpoAlgorithmCfg):
    """PPO that trains the encoder, see `PpoSettings`."""


@configclass
class EncoderDistillationCfg(DistillationSettings, RslRlDistillationAlgorithmCfg):
    """Distillation that trains the student's encoder, see `DistillationSettings`."""
