"""DeFM, a foundation model for depth images, behind robot policies."""

from defm_rl.depth import normalize_depth
from defm_rl.encoders import DepthEncoder, list_encoders, load_encoder

__all__ = ["DepthEncoder", "list_encoders", "load_encoder", "normalize_depth"]
