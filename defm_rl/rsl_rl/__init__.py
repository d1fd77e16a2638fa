"""DeFM encoders in RSL-RL: an environment adapter, a model that sees, and algorithms that fine-tune it."""

from defm_rl.rsl_rl.algorithms import EncoderDistillation, EncoderPPO
from defm_rl.rsl_rl.model import DefmModel
from defm_rl.rsl_rl.vec_env import RslRlVecEnv

__all__ = ["DefmModel", "EncoderDistillation", "EncoderPPO", "RslRlVecEnv"]
