"""Tests for what others bring: `check_encoder(name)` belongs into the tests of a package with an encoder."""

import copy
import logging
import math
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from defm_rl.encoders import DepthEncoder, build_encoder, find_card, load_encoder
from defm_rl.encoders.output import EncoderOutput

_logger = logging.getLogger(__name__)


def check_encoder(name: str, image_size: tuple[int, int] = (64, 96), *, atol: float = 1e-3) -> None:
    """Checks that an encoder keeps what everything here relies on; built with random weights.

    That its card says what it gives; that it computes what is asked for, of images of sizes that it takes, each image
    for itself; that it stays frozen where it is; that stages can be trained, and come back from a file; that the same
    seed gives the same weights.

    Args:
        name: See `find_card`: that of a registered encoder, or "package.module:Class(width=64)".
        image_size: Height and width of depth as it will come, in pixels.
        atol: How much features may differ between two ways to compute them.

    Raises:
        ValueError, TypeError: The name is unknown, or what it stands for is no encoder.
        AssertionError: The first thing that is not so, with what to do.
    """
    card = find_card(name)
    network = build_encoder(name).eval()
    parameters = sum(parameter.numel() for parameter in network.parameters())
    _require(
        card.parameters in (None, parameters), f"the card says {card.parameters} parameters, and there are {parameters}"
    )
    _check_stages(name)
    depth = 0.5 + 5.0 * torch.rand(3, *image_size, generator=torch.Generator().manual_seed(0))
    for feature in card.channels:
        encoder = DepthEncoder(name, weights="random", features=feature, image_size=image_size)
        _check_output(encoder, depth, atol)
        _check_frozen(encoder, depth, atol)
        _check_trained(encoder, depth, atol)
    _check_seeds(name, has_weights=parameters > 0)
    _logger.info("%s is an encoder: %s.", name, ", ".join(f"{key} {count}" for key, count in card.channels.items()))


def _check_stages(name: str) -> None:
    network = build_encoder(name)
    prefixes = [prefix for stage in network.stage_prefixes().values() for prefix in stage]
    for parameter, _ in network.named_parameters():
        count = sum(parameter.startswith(prefix) for prefix in prefixes)
        _require(
            count == 1,
            f"{parameter!r} belongs to {count} of the stages, by the beginnings of names in stage_prefixes(); it must "
            "belong to one",
        )


def _check_output(encoder: DepthEncoder, depth: Tensor, atol: float) -> None:
    (feature,) = encoder.features
    output = encoder.maps(depth)
    _require(isinstance(output, EncoderOutput), f"forward must return an EncoderOutput, got {type(output)}")
    given = {"global": output.global_features, **output.maps}
    found = {key for key, value in given.items() if value is not None}
    _require(found == {feature}, f"asked for {feature!r} alone, forward gives {sorted(found)}")
    value = given[feature]
    assert value is not None
    channels = _channels(encoder, feature)
    _require(bool(torch.isfinite(value).all()), f"{feature!r} is not finite of depth from 0.5 to 5.5 m")
    if feature == "global":
        _require(value.shape == (3, channels), f"'global' must be {(3, channels)}, is {tuple(value.shape)}")
    else:
        height, width = encoder._normalized(depth[:1]).shape[-2:]
        stride = encoder.card.strides[feature]
        expected = (3, channels, math.ceil(height / stride), math.ceil(width / stride))
        _require(
            value.shape == expected,
            f"{feature!r} of {height}x{width} at stride {stride} must be {expected}, is {tuple(value.shape)}: "
            "say in size_multiple= what height and width must be multiples of",
        )
    alone = encoder(depth[1:2])
    together = encoder(depth)[1:2]
    _require(
        torch.allclose(alone, together, atol=atol, rtol=atol),
        f"{feature!r} of an image depends on the others in its batch (by {(alone - together).abs().max():.2g}), "
        "although it is in evaluation mode",
    )


def _check_frozen(encoder: DepthEncoder, depth: Tensor, atol: float) -> None:
    (feature,) = encoder.features
    _require(encoder.frozen and not list(encoder.parameters()), "a frozen encoder has parameters")
    tensors = [key for key in encoder.state_dict() if not key.endswith("_extra_state")]
    _require(not tensors, f"a frozen encoder leaves {tensors[:3]} in checkpoints")
    eager = encoder._run(encoder._images(depth))
    encoder.train()
    for what, features in {
        "in training mode": encoder(depth),
        "of the same images again": encoder.encode(depth),
        "of a copy": copy.deepcopy(encoder).encode(depth),
    }.items():
        _require(
            torch.allclose(features, eager, atol=atol, rtol=atol),
            f"{feature!r} {what} differs (by {(features - eager).abs().max():.2g}) although all is frozen: something "
            "in forward depends on chance, on training mode, or on what came before",
        )


def _check_seeds(name: str, has_weights: bool) -> None:
    first, again, other = (load_encoder(name, "random", seed=seed).provenance.sha256 for seed in (0, 0, 1))
    _require(first == again, "the same seed gives other weights: draw them from PyTorch's generator")
    _require(first != other or not has_weights, "another seed gives the same weights")


def _check_trained(encoder: DepthEncoder, depth: Tensor, atol: float) -> None:
    (feature,) = encoder.features
    encoder.unfreeze("all")
    features = encoder(depth)
    _require(features.requires_grad, f"no gradient reaches the weights from {feature!r}")
    features.square().mean().backward()
    for key, parameter in encoder.named_parameters():
        gradient = parameter.grad
        _require(gradient is None or bool(torch.isfinite(gradient).all()), f"the gradient of {key} is not finite")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        encoder.save(path)
        again = DepthEncoder(
            encoder.encoder_name, weights=str(path), features=feature, image_size=(depth.shape[1], depth.shape[2])
        )
    _require(
        torch.allclose(again.encode(depth), encoder.encode(depth), atol=atol, rtol=atol),
        f"{feature!r} of weights that were written to a file differs when they are loaded again: is all that forward "
        "needs a parameter or a persistent buffer?",
    )


def _channels(encoder: DepthEncoder, feature: str) -> int:
    fused = encoder.card.bifpn_channels if feature != "global" and encoder.bifpn else None
    return encoder.card.channels[feature] if fused is None else fused


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
