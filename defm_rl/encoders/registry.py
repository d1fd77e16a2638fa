"""Encoders by name: a card says what one gives, a builder makes it, and everything else asks here.

Three kinds of names are known: the published encoders' (with or without "defm_"), those that were registered, by this
library or by others' code, and "package.module:Class(width=64)", which names a class that nobody has registered.
"""

import ast
import difflib
import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from defm_rl.encoders.base import Encoder, PlainEncoder
from defm_rl.plugins import load_plugins

Builder = Callable[[], nn.Module]

PLUGINS = "defm_rl.encoders"
"""The entry point group of packages that register encoders."""

_PREFIX = "defm_"


@dataclass(frozen=True)
class EncoderCard:
    """What is known of an encoder before it is built.

    The published figures are those in the README of defm 1.1.0, at 224x224; it states neither precision nor runtime.

    Attributes:
        name: As it is asked for, such as "defm_resnet18".
        channels: Length of the "global" features, and channels of each map as the backbone gives it, finest first.
        strides: Pixels of the input per cell of each map.
        stages: What can be trained by itself, from input to output.
        bifpn_channels: Channels of every map after the BiFPN; None for networks that have none.
        size_multiple: What height and width must be multiples of: with a BiFPN images are padded to it where maps pass
            through it; without, images are resized to it always. 1 where any size will do.
        input_channels: What the network takes, see `defm_rl.depth.INPUT_CHANNELS`.
        family: Of architectures, such as "resnet"; for people.
        parameters: Number of parameters; of published ones with BiFPN and norms.
        rtx4090_batch128_ms: Published latency of a batch of 128 on an RTX 4090.
        jetson_orin_ms: Published latency on a Jetson Orin.
        knn_top5_percent: Published top-5 k-nearest-neighbour accuracy on ImageNet-1k depth.
        linear_probe_percent: Published linear-probe accuracy on ImageNet-1k depth.
    """

    name: str
    channels: dict[str, int]
    strides: dict[str, int] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    bifpn_channels: int | None = None
    size_multiple: int = 1
    input_channels: str = "defm"
    family: str = ""
    parameters: int | None = None
    rtx4090_batch128_ms: float | None = None
    jetson_orin_ms: float | None = None
    knn_top5_percent: float | None = None
    linear_probe_percent: float | None = None

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the feature maps, finest first."""
        return tuple(name for name in self.channels if name != "global")

    @property
    def resized_to(self) -> int | None:
        """What height and width are always rounded down to a multiple of, by resizing; None where they are not."""
        return self.size_multiple if self.bifpn_channels is None and self.size_multiple > 1 else None

    @classmethod
    def of(cls, name: str, network: Encoder, **others: Any) -> "EncoderCard":
        """The card that a network deserves.

        Args:
            name: The encoder's name.
            network: The network, which may be on the meta device.
            **others: Attributes that a network does not tell, such as the family.
        """
        return cls(
            name,
            dict(network.channels),
            dict(network.strides),
            tuple(network.stage_prefixes()),
            network.bifpn_channels,
            network.size_multiple,
            network.input_channels,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            **others,
        )


_CARDS: dict[str, EncoderCard] = {}
_BUILDERS: dict[str, Builder] = {}
_PUBLISHED: set[str] = set()


def register_encoder(card: EncoderCard, builder: Builder, *, published: bool = False) -> None:
    """Makes an encoder known by its name to everything that takes one.

    Args:
        card: What it gives.
        builder: Makes the network, with random weights from PyTorch's global generator: an `Encoder`, or a module with
            `feature_dim` that makes (B, feature_dim) of images.
        published: Whether it is one of DeFM's, whose weights are on the Hub.

    Raises:
        ValueError: Where there is another of this name, or it is no name.
    """
    name = card.name
    if name in _CARDS and _CARDS[name] != card:
        raise ValueError(f"There is an encoder {name!r} already, with another card: give yours another name.")
    if not name or ":" in name or f"{_PREFIX}{name}" in _CARDS:
        raise ValueError(f"An encoder cannot be called {name!r}: it is empty, has a colon, or means one of DeFM's.")
    _CARDS[name], _BUILDERS[name] = card, builder
    if published:
        _PUBLISHED.add(name)


def list_encoders() -> list[EncoderCard]:
    """The cards of all encoders that are known by name: the published ones, then those that others have registered."""
    load_plugins(PLUGINS)
    return sorted(_CARDS.values(), key=lambda card: card.name not in _PUBLISHED)


def is_published(name: str) -> bool:
    """Whether an encoder is one of DeFM's, whose weights are on the Hub."""
    return published_name(name) in _PUBLISHED


def is_known(name: str) -> bool:
    """Whether there is an encoder of this name."""
    try:
        find_card(name)
    except (ValueError, TypeError):
        return False
    return True


def published_name(name: str) -> str:
    """The one spelling of an encoder's name.

    The published ones may be asked for without "defm_", and the arguments of a class may stand in any order.
    """
    if f"{_PREFIX}{name}" in _PUBLISHED:
        return f"{_PREFIX}{name}"
    return custom_name(*_parsed(name)) if _is_class(name) else name


def custom_name(class_name: str, kwargs: Mapping[str, Any]) -> str:
    """The name of a class that is not registered, "package.module:Class(width=64)".

    Args:
        class_name: The class, or a function that makes the network: "package.module:Name".
        kwargs: What it is called with: numbers, strings, lists and dicts of such.

    Raises:
        ValueError: Where it names no class, or a value could not be read again from a name.
    """
    if not _is_class(class_name) or "(" in class_name:
        raise ValueError(f'An encoder\'s class is named as "package.module:Class"; got {class_name!r}.')
    arguments = ", ".join(f"{key}={value!r}" for key, value in sorted(kwargs.items()))
    name = f"{class_name}({arguments})" if arguments else class_name
    try:
        can_be_read = _parsed(name) == (class_name, dict(kwargs))
    except ValueError:
        can_be_read = False
    if not can_be_read:
        raise ValueError(
            f"The arguments of {class_name} must be numbers, strings, lists and dicts; got {dict(kwargs)}."
        )
    return name


def find_card(name: str) -> EncoderCard:
    """The card of an encoder.

    Args:
        name: A published one's, with or without "defm_"; that of a registered one; or "package.module:Class(width=64)".

    Raises:
        ValueError: The name is unknown; the message suggests one.
        TypeError: The class that it names makes no encoder.
    """
    known = published_name(name)
    if known not in _CARDS and not _is_class(known):
        load_plugins(PLUGINS)
    if known in _CARDS:
        return _CARDS[known]
    if _is_class(known):
        return _card_of_class(known)
    # Compared without the prefix, which would make everything look alike.
    short = {card.removeprefix(_PREFIX): card for card in _CARDS}
    close = difflib.get_close_matches(str(name).lower().replace("-", "_").removeprefix(_PREFIX), short, n=1, cutoff=0.5)
    suggestion = f" Did you mean {short[close[0]]!r}?" if close else ""
    names = ", ".join(card.name for card in list_encoders())
    raise ValueError(
        f"Unknown encoder {name!r}.{suggestion} There are: {names}. One that is not registered is named as "
        '"package.module:Class".'
    )


def build_encoder(name: str) -> Encoder:
    """Build an encoder with random weights from PyTorch's global generator.

    Args:
        name: See `find_card`.

    Returns:
        The network, in training mode.

    Raises:
        ValueError: The name is unknown, which gets a suggestion; or the network is not what its card says.
        TypeError: What the builder makes is no encoder.
    """
    card = find_card(name)
    if card.name in _PUBLISHED:
        network = _BUILDERS[card.name]()
        assert isinstance(network, Encoder)
        return network
    network = _built(card.name, _BUILDERS.get(card.name) or _class_builder(card.name))
    says = EncoderCard.of(card.name, network)
    for name in ("channels", "strides", "stages", "bifpn_channels", "size_multiple", "input_channels"):
        said, is_so = getattr(card, name), getattr(says, name)
        if said != is_so and (said or name != "stages"):
            raise ValueError(f"The card of {card.name!r} says {name}={said}, and its network has {is_so}.")
    return network


def _built(name: str, builder: Builder) -> Encoder:
    """What a builder makes, as an `Encoder`."""
    made = builder()
    if isinstance(made, Encoder):
        missing = [attribute for attribute in ("channels", "strides") if not hasattr(made, attribute)]
        if missing or not made.channels:
            raise TypeError(f"{name}: an Encoder says what it gives in channels= and strides=; it has no {missing[0]}.")
        return made
    if not isinstance(made, nn.Module):
        raise TypeError(f"{name} must make a torch.nn.Module; it has made {type(made).__name__}.")
    if not isinstance(getattr(made, "feature_dim", None), int):
        raise TypeError(
            f"{name}: {type(made).__name__} has no feature_dim, the number of features that it makes of an image. Set "
            "it, where forward makes (B, feature_dim) of (B, 3, H, W); or derive from defm_rl.encoders.Encoder, where "
            "it gives feature maps."
        )
    return PlainEncoder(made)


def _is_class(name: object) -> bool:
    module, colon, attribute = str(name).partition("(")[0].partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def _parsed(name: str) -> tuple[str, dict[str, Any]]:
    """The class that a name names, and its arguments."""
    class_name, opened, _ = name.partition("(")
    if not opened:
        return class_name, {}
    try:
        call = ast.parse(f"f{name[len(class_name) :]}", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError("arguments are given by name")
        return class_name, {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in call.keywords}
    except (SyntaxError, ValueError) as error:
        raise ValueError(
            f'An encoder\'s class is named as "package.module:Class(width=64)"; got {name!r}: {error}.'
        ) from error


def _class_builder(name: str) -> Builder:
    class_name, kwargs = _parsed(name)
    module, _, attribute = class_name.partition(":")
    try:
        made: Any = importlib.import_module(module)
        for part in attribute.split("."):
            made = getattr(made, part)
    except ModuleNotFoundError as error:
        raise ValueError(f"encoder {name!r}: there is no module {error.name!r} to import it from.") from error
    except AttributeError as error:
        raise ValueError(f"encoder {name!r}: {error}.") from error
    return functools.partial(made, **kwargs)


@functools.lru_cache(maxsize=64)
def _card_of_class(name: str) -> EncoderCard:
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        return EncoderCard.of(name, _built(name, _class_builder(name)))
