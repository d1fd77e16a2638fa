"""The DeFM networks, their zoo and their weights; needs torch and huggingface_hub only."""

from defm_rl.encoders.depth_encoder import DepthEncoder
from defm_rl.encoders.output import EncoderOutput
from defm_rl.encoders.weights import WeightsInfo, WeightsUnavailableError
from defm_rl.encoders.zoo import EncoderCard, build_encoder, list_encoders, load_encoder

__all__ = [
    "DepthEncoder",
    "EncoderCard",
    "EncoderOutput",
    "WeightsInfo",
    "WeightsUnavailableError",
    "build_encoder",
    "list_encoders",
    "load_encoder",
]
