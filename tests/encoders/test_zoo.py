"""The encoders' cards against the published checkpoints, and how they are asked for."""

import json
from pathlib import Path

import pytest
import torch

from defm_rl.encoders import EncoderCard, build_encoder, find_card, load_encoder
from defm_rl.encoders.zoo import CARDS

REFERENCE = Path(__file__).parents[1] / "reference"


@pytest.fixture(params=list(CARDS))
def card(request: pytest.FixtureRequest) -> EncoderCard:
    return CARDS[request.param]


def test_there_is_a_card_for_each_published_checkpoint() -> None:
    published = {path.stem for path in REFERENCE.glob("*.json")}
    assert len(published) == 12
    assert set(CARDS) == published
    assert all(name == card.name for name, card in CARDS.items())


def test_cards_equal_the_checkpoints(card: EncoderCard) -> None:
    facts = json.loads((REFERENCE / f"{card.name}.json").read_text())
    assert card.parameters == facts["parameters"]
    if card.family == "vit":
        assert card.channels == {"global": facts["class_token"], "P14": facts["spatial"]}
        assert card.bifpn_channels is None
    else:
        assert card.channels["global"] == facts["global_backbone"]
        assert card.levels == ("P3", "P4", "P5")
        for level in card.levels:
            assert card.channels[level] == facts[f"dense_feats/{level}"]
            assert card.bifpn_channels == facts[f"dense_bifpn/{level}"]


def test_cards_equal_the_networks(card: EncoderCard) -> None:
    with torch.device("meta"):
        network = build_encoder(card.name)
    assert sum(parameter.numel() for parameter in network.parameters()) == card.parameters
    assert network.channels == card.channels
    assert network.bifpn_channels == card.bifpn_channels
    assert network.strides == card.strides
    assert network.size_multiple == card.size_multiple
    assert tuple(network.stage_prefixes()) == card.stages


def test_families() -> None:
    assert CARDS["defm_regnet_y_1_6gf"].family == "regnet"
    assert CARDS["defm_efficientnet_b0"].family == "efficientnet"
    assert CARDS["defm_resnet18"].family == "resnet"
    assert CARDS["defm_vit_s14"].family == "vit"


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("defm_resnet81", "defm_resnet18"),
        ("ViT-S14", "defm_vit_s14"),
        ("defm_efficientnet_b1", "defm_efficientnet_b"),
        ("regnet_y_400m", "defm_regnet_y_400mf"),
    ],
)
@pytest.mark.parametrize("ask", [build_encoder, load_encoder])
def test_unknown_names_get_a_suggestion(ask: object, asked: str, meant: str) -> None:
    with pytest.raises(ValueError, match=f"Unknown encoder '{asked}'. Did you mean '{meant}"):
        ask(asked)  # type: ignore[operator]


@pytest.mark.parametrize("name", ["resnet18", "defm_resnet18"])
def test_names_work_with_and_without_the_prefix(name: str) -> None:
    assert load_encoder(name, "random").provenance.encoder == "defm_resnet18"
    assert find_card(name) is CARDS["defm_resnet18"]


def test_names_like_nothing_get_the_list() -> None:
    with pytest.raises(ValueError, match=r"Unknown encoder 'clip'\. There are: defm_resnet18, .*defm_vit_l14"):
        build_encoder("clip")
