"""Freezing and unfreezing of any module: running statistics, ties, and what a checkpoint holds of them."""

import copy

import pytest
import torch
from torch import nn

from defm_rl.encoders.freezing import FrozenWeights, freeze, frozen_names, full_state, unfreeze
from defm_rl.encoders.weights import state_sha256


class Own(nn.Module):
    """A convolution with batch normalization, a buffer that is no weight, and two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4))
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(3.0), persistent=False)


@pytest.fixture
def net() -> Own:
    torch.manual_seed(0)
    return Own()


def everything(_: str) -> bool:
    return True


def test_nothing_of_a_frozen_network_is_in_a_checkpoint(net: Own) -> None:
    whole = copy.deepcopy(net).state_dict()
    freeze(net, everything)
    assert list(net.parameters()) == []
    assert net.state_dict() == {}
    state = full_state(net)
    assert state.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in state.items())


def test_unfreezing_makes_of_each_tensor_what_it_was(net: Own) -> None:
    before = copy.deepcopy(net)
    freeze(net, everything)
    new = unfreeze(net, everything)
    assert new.keys() == dict(net.named_parameters()).keys() == dict(before.named_parameters()).keys()
    assert dict(net.named_buffers()).keys() == dict(before.named_buffers()).keys()
    assert net.state_dict().keys() == before.state_dict().keys()
    assert unfreeze(net, everything) == {}


def test_running_statistics_of_what_is_trained_are_in_the_checkpoint(net: Own) -> None:
    freeze(net, everything)
    unfreeze(net, lambda name: name.startswith("stem."))
    assert {"stem.1.running_mean", "stem.1.num_batches_tracked", "stem.1.weight"} <= net.state_dict().keys()
    assert set(frozen_names(net)) == {"first.weight", "first.bias", "second.weight", "second.bias"}


@pytest.mark.parametrize("select", ["", "first.", "second."])
@pytest.mark.parametrize("cast", [False, True])
def test_weights_that_are_one_stay_one(net: Own, select: str, cast: bool) -> None:
    freeze(net, lambda name: name.startswith(select))
    assert not isinstance(net.first.weight, nn.Parameter)
    assert not isinstance(net.second.weight, nn.Parameter)
    if cast:
        net.double()
    new = unfreeze(net, lambda name: name.startswith(select))
    assert net.first.weight is net.second.weight
    assert new["first.weight"] is net.first.weight


def test_a_number_among_the_buffers_has_a_sha256(net: Own) -> None:
    before = state_sha256(net)
    net.stem[1].num_batches_tracked += 1
    assert state_sha256(net) != before


def test_every_change_of_frozen_weights_is_noticed(net: Own) -> None:
    freeze(net, everything)

    def change_in_place() -> None:
        net.stem[0].weight.mul_(2)

    changes = [
        change_in_place,
        lambda: net.stem.half(),
        lambda: net.double(),
        lambda: unfreeze(net, lambda name: name == "first.bias"),
    ]
    for change in changes:
        weights = FrozenWeights(net)
        assert weights.unchanged()
        change()
        assert not weights.unchanged()
