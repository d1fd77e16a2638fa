"""The published encoders: a card for each, and how to build and load them."""

import dataclasses
import difflib
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch

from defm_rl.encoders.architectures import build_network
from defm_rl.encoders.base import Encoder
from defm_rl.encoders.files import load_state, read_weights
from defm_rl.encoders.identity import EncoderIdentity
from defm_rl.encoders.weights import (
    InvalidWeightsError,
    WeightsInfo,
    WeightsNotFoundError,
    WeightsUnavailableError,
    find_weights,
    read_adaptation,
    state_sha256,
)


@dataclass(frozen=True)
class EncoderCard:
    """What is known of a published encoder before it is built.

    The figures are those in the README of defm 1.1.0, at 224x224; it states neither precision nor runtime.

    Attributes:
        name: As the checkpoint is called, such as "defm_resnet18".
        family: "resnet", "regnet", "efficientnet" or "vit".
        parameters: Number of parameters, BiFPN and norms included.
        channels: Length of the "global" features, and channels of each map as the backbone gives it, finest first.
        bifpn_channels: Channels of every map after the BiFPN; None for the ViTs, which have none.
        stages: What can be trained by itself, from input to output.
        rtx4090_batch128_ms: Published latency of a batch of 128 on an RTX 4090.
        jetson_orin_ms: Published latency on a Jetson Orin.
        knn_top5_percent: Published top-5 k-nearest-neighbour accuracy on ImageNet-1k depth.
        linear_probe_percent: Published linear-probe accuracy on ImageNet-1k depth.
    """

    name: str
    family: str
    parameters: int
    channels: dict[str, int]
    bifpn_channels: int | None
    stages: tuple[str, ...]
    rtx4090_batch128_ms: float
    jetson_orin_ms: float
    knn_top5_percent: float
    linear_probe_percent: float

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the feature maps, finest first."""
        return tuple(name for name in self.channels if name != "global")

    @property
    def strides(self) -> dict[str, int]:
        """Pixels of the input per cell of each map."""
        return {level: _STRIDES[level] for level in self.levels}

    @property
    def size_multiple(self) -> int:
        """What height and width must be multiples of: always for the ViTs, with BiFPN for the others."""
        return max(self.strides.values())


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
    return EncoderCard(f"defm_{name}", family, parameters, channels, bifpn, _STAGES[family], *published)


def _vit(name: str, parameters: int, width: int, published: tuple[float, ...]) -> EncoderCard:
    channels = {"global": width, "P14": width}
    return EncoderCard(f"defm_{name}", "vit", parameters, channels, None, _STAGES["vit"], *published)


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


def list_encoders() -> list[EncoderCard]:
    """The cards of all published encoders."""
    return list(CARDS.values())


def published_name(name: str) -> str:
    """The name under which an encoder was published, which may be asked for without "defm_"; others as they are."""
    return f"defm_{name}" if f"defm_{name}" in CARDS else name


def find_card(name: str) -> EncoderCard:
    """The card of a published encoder, by its name with or without "defm_".

    Raises:
        ValueError: The name is unknown; the message suggests one.
    """
    card = CARDS.get(published_name(name))
    if card is not None:
        return card
    # Compared without the prefix, which would make everything look alike.
    short = {card.removeprefix("defm_"): card for card in CARDS}
    close = difflib.get_close_matches(str(name).lower().replace("-", "_").removeprefix("defm_"), short, n=1, cutoff=0.5)
    suggestion = f" Did you mean {short[close[0]]!r}?" if close else ""
    raise ValueError(f"Unknown encoder {name!r}.{suggestion} There are: {', '.join(CARDS)}.")


def build_encoder(name: str) -> Encoder:
    """Build an encoder with random weights from PyTorch's global generator.

    Args:
        name: A published encoder's name, see `find_card`.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: The name is unknown; the message suggests one.
    """
    return build_network(find_card(name).name)


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
        name: A published encoder's name, see `find_card`.
        weights: "hub" for the published ones; the path of a `.pth` or `.safetensors` file, of a whole policy's
            checkpoint or of Stable-Baselines3's `.zip`, with the weights somewhere in it, see
            `defm_rl.encoders.files`; or "random".
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
            network = build_network(name)
        info = WeightsInfo(name, "random", state_sha256(network), seed=seed)
    else:
        info = find_weights(name, weights, revision=revision, cache_dir=cache_dir)
        path = info.path
        assert path is not None
        with torch.device("meta"):  # no time for an initialisation that is overwritten
            network = build_network(name)
        reading = read_weights(path, name, network.state_dict())
        state = reading.state
        if reading.identity is not None:
            info = dataclasses.replace(info, parent=reading.identity.sha256, trained=reading.identity.trainable)
        if reading.missing:
            assert reading.identity is not None
            parent = _load_parent(reading.identity, info, revision=revision, cache_dir=cache_dir)
            state = {**parent.state_dict(), **state}
        load_state(network, state)
        info = dataclasses.replace(info, adaptation=read_adaptation(path))
    network.provenance = info
    return network.eval()


@lru_cache(maxsize=32)
def tensor_names(name: str) -> tuple[str, ...]:
    """The names of an encoder's weights, as its files have them; frozen or not does not matter."""
    with torch.device("meta"):
        return tuple(build_network(name).state_dict())


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
