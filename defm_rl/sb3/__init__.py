"""DeFM encoders in Stable-Baselines3: in the environment (encode once), or inside the policy (to fine-tune)."""

from defm_rl.optimizers import EncoderAdam, EncoderLearningRate
from defm_rl.sb3.extractors import DefmExtractor, FeatureProjection
from defm_rl.sb3.gymnasium_vec_env import GymnasiumVecEnv
from defm_rl.sb3.unfreeze import UnfreezeEncoder
from defm_rl.sb3.vec_wrappers import VecEncodeDepth, VecNormalizeDepth, VecNormalizeFeatures, VecSimulateSensor

__all__ = [
    "DefmExtractor",
    "EncoderAdam",
    "EncoderLearningRate",
    "FeatureProjection",
    "GymnasiumVecEnv",
    "UnfreezeEncoder",
    "VecEncodeDepth",
    "VecNormalizeDepth",
    "VecNormalizeFeatures",
    "VecSimulateSensor",
]
