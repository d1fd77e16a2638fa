"""Is an encoder any good for a camera, before any training: k-NN, linear probes and segmentation on frozen features."""

from defm_rl.probes.classification import (
    LEARNING_RATES,
    NEIGHBOURS,
    TEMPERATURE,
    LinearProbe,
    fit_linear,
    knn,
    top_k_correct,
)
from defm_rl.probes.features import Maps, default_cache, encode_frames, encode_maps
from defm_rl.probes.labelled import LabelledDepth, held_out
from defm_rl.probes.segmentation import IGNORED, SegmentationProbe, confusion, fit_segmentation, mean_iou, miou_interval

__all__ = [
    "IGNORED",
    "LEARNING_RATES",
    "NEIGHBOURS",
    "TEMPERATURE",
    "LabelledDepth",
    "LinearProbe",
    "Maps",
    "SegmentationProbe",
    "confusion",
    "default_cache",
    "encode_frames",
    "encode_maps",
    "fit_linear",
    "fit_segmentation",
    "held_out",
    "knn",
    "mean_iou",
    "miou_interval",
    "top_k_correct",
]
