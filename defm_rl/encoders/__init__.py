"""The networks, the registry of all encoders, and their weights; needs torch and huggingface_hub only."""

from defm_rl.encoders.base import Encoder
from defm_rl.encoders.baselines import TimmEncoder, TorchvisionResNet
from defm_rl.encoders.depth_encoder import DepthEncoder
from defm_rl.encoders.distributed import keep_frozen_local
from defm_rl.encoders.output import EncoderOutput
from defm_rl.encoders.registry import EncoderCard, build_encoder, find_card, list_encoders, register_encoder
from defm_rl.encoders.weights import WeightsInfo, WeightsUnavailableError
from defm_rl.encoders.zoo import load_encoder

__all__ = [
    "DepthEncoder",
    "Encoder",
    "EncoderCard",
    "EncoderOutput",
    "TimmEncoder",
    "TorchvisionResNet",
    "WeightsInfo",
    "WeightsUnavailableError",
    "build_encoder",
    "find_card",
    "keep_frozen_local",
    "list_encoders",
    "load_encoder",
    "register_encoder",
]
