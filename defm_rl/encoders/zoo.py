"""The published encoders' cards, and how encoders of any name are loaded with weights."""

import dataclasses
import os
from functools import lru_cache
from typing import Any

import torch

from defm_rl.encoders.architectures import ARCHITECTURES
from defm_rl.encoders.base import Encoder
from defm_rl.encoders.files import load_state, read_weights
from defm_rl.encoders.identity import EncoderIdentity
from defm_rl.encoders.registry import (
    EncoderCard,
    build_encoder,
    find_card,
    is_published,
    register_encoder,
)
from defm_rl.encoders.weights import (
    InvalidWeightsError,
    WeightsInfo,
    WeightsNotFoundError,
    WeightsUnavailableError,
    find_weights,
    first_line,
    read_adaptation,
    state_sha256,
)

_STRIDES = {"P3": 8, "P4": 16, "P5": 32, "P14": 14}
_STAGES = {
    "resnet": ("stem", "layer1", "layer2", "layer3", "layer4", "neck", "head"),
    "regnet": ("stem", "block1", "block2", "block3", "block4", "neck", "head"),
    "efficientnet": ("stem", "stage1", "stage2", "stage3", "stage4", "stage5", "stage6", "neck", "head"),
    "vit": ("embed", "blocks0", "blocks1", "blocks2", "blocks3", "norm"),
}


def _cnn(
    name: str, parameters: int, maps: tuple[int, int, int], bifpn: int, published: tuple[float, ...]
) -> EncoderCard:
    channels = {"global": maps[-1], **dict(zip(("P3", "P4", "P5"), maps, strict=True))}
    family = name.split("_")[0].rstrip("0123456789")
    return _card(name, family, parameters, channels, bifpn, published)


def _vit(name: str, parameters: int, width: int, published: tuple[float, ...]) -> EncoderCard:
    return _card(name, "vit", parameters, {"global": width, "P14": width}, None, published)


def _card(
    name: str,
    family: str,
    parameters: int,
    channels: dict[str, int],
    bifpn: int | None,
    published: tuple[float, ...],
) -> EncoderCard:
    strides = {level: _STRIDES[level] for level in channels if level != "global"}
    batch_ms, orin_ms, knn_percent, probe_percent = published
    return EncoderCard(
        f"defm_{name}",
        channels,
        strides,
        _STAGES[family],
        bifpn,
        max(strides.values()),
        family=family,
        parameters=parameters,
        rtx4090_batch128_ms=batch_ms,
        jetson_orin_ms=orin_ms,
        knn_top5_percent=knn_percent,
        linear_probe_percent=probe_percent,
    )


# Parameters, channels of P3 to P5, BiFPN channels; ms on RTX 4090 (batch 128) and Jetson Orin, k-NN and linear probe %.
CARDS: dict[str, EncoderCard] = {
    card.name: card
    for card in (
        _cnn("resnet18", 11_735_624, (128, 256, 512), 128, (21.06, 8.67, 70.93, 51.57)),
        _cnn("resnet34", 23_286_600, (128, 256, 512), 256, (33.08, 13.54, 73.84, 54.78)),
        _cnn("resnet50", 26_201_160, (512, 1024, 2048), 256, (69.39, 17.79, 78.93, 62.56)),
        _cnn("regnet_y_400mf", 4_063_264, (104, 208, 440), 64, (17.27, 25.17, 74.43, 51.80)),
        _cnn("regnet_y_800mf", 6_252_224, (144, 320, 784), 128, (25.21, 24.16, 76.43, 58.62)),
        _cnn("regnet_y_1_6gf", 12_430_798, (120, 336, 888), 256, (44.25, 41.82, 77.96, 58.88)),
        _cnn("efficientnet_b0", 3_009_620, (40, 80, 192), 64, (29.39, 21.04, 69.54, 47.17)),
        _cnn("efficientnet_b2", 4_954_590, (48, 88, 208), 128, (46.12, 28.37, 72.89, 51.64)),
        _cnn("efficientnet_b4", 14_156_924, (56, 112, 272), 256, (86.51, 39.67, 76.45, 56.24)),
        _cnn("efficientnet_b6", 28_982_906, (72, 144, 344), 256, (150.98, 54.11, 79.30, 60.70)),
        _vit("vit_s14", 21_635_328, 384, (63.76, 11.92, 79.37, 62.74)),
        _vit("vit_l14", 303_655_168, 1024, (624.91, 72.82, 85.42, 72.76)),
    )
}


for _published in CARDS.values():
    register_encoder(_published, ARCHITECTURES[_published.name], published=True)


def load_encoder(
    name: str,
    weights: str | os.PathLike[str] = "hub",
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
) -> Encoder:
    """Load an encoder as published, or as it was trained since.

    Args:
        name: An encoder's name, see `find_card`.
        weights: "hub" for the published ones, which encoders that are not DeFM's get by their own
            `load_pretrained`; the path of a `.pth` or `.safetensors` file, of a whole policy's checkpoint or of
            Stable-Baselines3's `.zip`, with the weights somewhere in it, see `defm_rl.encoders.files`; or "random".
        revision: The Hub's branch, tag or commit.
        cache_dir: The Hub's cache directory.
        seed: Seeds random weights, and leaves PyTorch's generators as they are.

    Returns:
        The network, on the CPU, float32, in evaluation mode. Its `provenance` says which weights it has.

    Raises:
        ValueError: The name is unknown; the message suggests one.
        WeightsUnavailableError: The Hub cannot be reached, and its cache does not have the file.
        WeightsNotFoundError: The Hub does not have the file or the revision, or the path does not exist.
        InvalidWeightsError: The file is damaged, or does not hold this encoder's weights in exactly one way.
    """
    name = find_card(name).name
    if weights == "random":
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, too
            network = build_encoder(name)
        info = WeightsInfo(name, "random", state_sha256(network), seed=seed)
    elif weights == "hub" and not is_published(name):
        network = _pretrained(name)
        info = WeightsInfo(name, "hub", state_sha256(network))
    else:
        info = find_weights(name, weights, revision=revision, cache_dir=cache_dir)
        network = blank_encoder(name)
        info = _fill(network, info, revision=revision, cache_dir=cache_dir)
    network.provenance = info
    return network.eval()


def blank_encoder(name: str) -> Encoder:
    """An encoder to be filled with weights, or to be asked what it is; DeFM's take neither time nor memory.

    Those of others are built as they are: what they compute on the way, such as tables, would be lost without memory.
    """
    if is_published(name):
        with torch.device("meta"):
            return build_encoder(name)
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        return build_encoder(name)


def _pretrained(name: str) -> Encoder:
    """An encoder with the weights that its authors have published.

    Raises:
        WeightsNotFoundError: Where it has none.
        WeightsUnavailableError: Where they cannot be had.
    """
    network = blank_encoder(name)
    try:
        network.load_pretrained()
    except NotImplementedError as error:
        raise WeightsNotFoundError(
            f"{name} has no published weights: pass weights='random', or the path of a file."
        ) from error
    except Exception as error:  # whatever its library raises without a network
        raise WeightsUnavailableError(
            f"The published weights of {name} could not be had ({type(error).__name__}: {first_line(error)}). "
            "weights='random' needs no file, but knows nothing."
        ) from error
    return network


def _fill(network: Encoder, info: WeightsInfo, **hub: Any) -> WeightsInfo:
    """Gives a network the weights of a file; returns what the file says of them beside what is known."""
    path = info.path
    assert path is not None
    prefix = network.file_prefix
    wanted = {name.removeprefix(prefix): x for name, x in network.state_dict().items()}
    reading = read_weights(path, info.encoder, wanted)
    state = {f"{prefix}{name}": x for name, x in reading.state.items()}
    if reading.identity is not None:
        info = dataclasses.replace(info, parent=reading.identity.sha256, trained=reading.identity.trainable)
    if reading.missing:
        assert reading.identity is not None
        state = {**_load_parent(reading.identity, info, **hub).state_dict(), **state}
    load_state(network, state)
    return dataclasses.replace(info, adaptation=read_adaptation(path))


@lru_cache(maxsize=32)
def tensor_names(name: str) -> tuple[str, ...]:
    """The names of an encoder's weights, as its files have them; frozen or not does not matter."""
    return tuple(blank_encoder(name).state_dict())


def _load_parent(identity: EncoderIdentity, child: WeightsInfo, **hub: Any) -> Encoder:
    """The weights from which a checkpoint's encoder was trained, for the stages that the checkpoint does not hold.

    Raises:
        InvalidWeightsError: Where they are neither random ones nor the Hub's.
    """
    try:
        if identity.seed is not None:
            parent = load_encoder(identity.encoder, "random", seed=identity.seed)
        else:
            parent = load_encoder(identity.encoder, **hub)
        found = f"the sha256 of what was found ({parent.provenance.source}) is {parent.provenance.sha256}."
    except (WeightsUnavailableError, WeightsNotFoundError) as error:
        parent, found = None, str(error)
    if parent is not None and parent.provenance.sha256 == identity.sha256:
        return parent
    raise InvalidWeightsError(
        f"{child.path} holds only what was trained of the encoder ({', '.join(identity.trainable)}). The rest is in "
        f"the weights of sha256 {identity.sha256} that it was trained from, which are not at hand: {found} Load the "
        "policy with those weights, and write the whole encoder by its DepthEncoder's save(path)."
    )
