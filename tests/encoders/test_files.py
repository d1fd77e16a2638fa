"""Weights in other people's files: under keys, behind prefixes, inside policies; and those of an encoder trained on."""

import argparse
import io
import logging
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from defm_rl import DepthEncoder, load_encoder
from defm_rl.encoders import zoo
from defm_rl.encoders.weights import InvalidWeightsError, WeightsNotFoundError

NAME = "defm_regnet_y_400mf"
OPTIMIZER = {"state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}
State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    return load_encoder(NAME, "random", seed=7).state_dict()


@pytest.fixture(scope="module")
def depth() -> Tensor:
    return torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(0)) * 5.0


def behind(prefix: str, state: State) -> State:
    return {prefix + name: value for name, value in state.items()}


def other(state: State) -> State:
    return {name: value + 1 for name, value in state.items()}


def equal(network: nn.Module, state: State) -> bool:
    return all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("make", "where"),
    [
        (lambda s: behind("module.", s), "'module.'"),
        (lambda s: behind("net.", s), "'net.'"),
        (lambda s: behind("module._orig_mod.encoder.net.", s), "'module.encoder.net.'"),
        (lambda s: {f"net.{k.replace('backbone.', 'backbone._orig_mod.')}": x for k, x in s.items()}, "'net.'"),
        (lambda s: {"state_dict": s}, "['state_dict']"),
        (lambda s: {"teacher": behind("module.", s)}, "['teacher'], names behind 'module.'"),
        (lambda s: {"ema": {"shadow": s}, "optimizer": OPTIMIZER}, "['ema']['shadow']"),
        (lambda s: {"model": {**behind("encoder.", s), "head.weight": torch.ones(2)}, "epoch": 3}, "'encoder.'"),
        (lambda s: {"student": s, "teacher": {name: x[:1] for name, x in s.items()}}, "['student']"),
        (lambda s: {**behind("pi_extractor.", s), **behind("vf_extractor.", s)}, "'pi_extractor.'"),  # the same twice
    ],
)
def test_a_file_loads_where_one_reading_fits_and_the_log_says_which(
    make: Callable[[State], Any], where: str, state: State, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    torch.save(make(state), tmp_path / "weights.pth")
    assert equal(load_encoder(NAME, tmp_path / "weights.pth"), state)
    (message,) = [record.message for record in caplog.records]
    assert "weights taken from" in message
    assert where in message


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (
            lambda s: {"model": s, "ema": other(s)},
            r"more than once, and they differ: \['model'\]; \['ema'\].*torch.load\('.*'\)\['ema'\]",
        ),
        (lambda s: {**behind("actor.net.", s), **behind("target.net.", other(s))}, "behind 'actor.net.'; .*target"),
        (lambda s: behind("module.", dict(list(s.items())[3:])), r"3 of \d+ names are missing .* behind 'module.'"),
        (lambda s: {"teacher": {k: x[..., :1] for k, x in s.items()}}, r"shapes differ .*in \['teacher'\]"),
        (lambda s: {"head.0": torch.ones(2)}, r"none of its names is one of the encoder's \d+"),
        (lambda s: {"net.backbone.stem.0.weight": torch.ones(1)}, r"save\(path\)"),
    ],
)
def test_a_file_that_fits_in_no_way_or_in_several_is_refused_with_what_there_is(
    make: Callable[[State], Any], says: str, state: State, tmp_path: Path
) -> None:
    torch.save(make(state), tmp_path / "weights.pth")
    with pytest.raises(InvalidWeightsError, match=says):
        load_encoder(NAME, tmp_path / "weights.pth")


def test_a_refused_pickle_says_what_was_met_and_how_to_save_it_again(state: State, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"model": state, "args": argparse.Namespace(lr=1e-3)}, path)
    with pytest.raises(InvalidWeightsError, match=r"argparse\.Namespace among it.*weights_only=False") as caught:
        load_encoder(NAME, path)
    # The advice in it is run as it stands.
    advice = re.search(r"(file = torch.load.*?); (torch.save\(.*?\))", str(caught.value))
    assert advice is not None
    exec("\n".join(advice.groups()).replace("'weights.pth'", f"'{path}'"), {"torch": torch, "path": path})
    assert equal(load_encoder(NAME, path), state)


def test_half_precision_behind_a_prefix_becomes_float32(state: State, tmp_path: Path) -> None:
    torch.save(behind("module.", {name: x.half() for name, x in state.items()}), tmp_path / "weights.pth")
    network = load_encoder(NAME, tmp_path / "weights.pth")
    assert {x.dtype for x in network.parameters()} == {torch.float32}
    assert equal(network, {name: x.half().float() for name, x in state.items()})


def trained(trainable: str | list[str], **settings: Any) -> DepthEncoder:
    encoder = DepthEncoder(NAME, **{"weights": "random", **settings}, trainable=trainable)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.01)
    return encoder


@pytest.mark.parametrize("trainable", ["all", ["block4", "head"]])
def test_a_trained_encoder_is_saved_whole_for_the_next_policy(
    trainable: str | list[str], depth: Tensor, tmp_path: Path
) -> None:
    encoder = trained(trainable)
    path = tmp_path / "folder" / "mine.safetensors"
    encoder.save(path)
    following = DepthEncoder(NAME, weights=str(path))
    torch.testing.assert_close(following(depth), encoder(depth).detach(), rtol=1e-4, atol=1e-4)
    info = following.provenance
    assert (info.source, info.parent, info.trained) == ("file", encoder.provenance.sha256, encoder.trainable)
    assert [file.name for file in path.parent.iterdir()] == ["mine.safetensors"]
    with safe_open(path, "pt") as file:
        assert file.metadata()["encoder"] == NAME
    again = DepthEncoder(NAME, weights=str(path), trainable="all", features="P4")  # also where it is trained on
    assert equal(again.net, dict(load_encoder(NAME, path).state_dict()))
    with pytest.raises(InvalidWeightsError, match=f"weights of '{NAME}', not of 'defm_resnet18'"):
        load_encoder("resnet18", path)


def test_an_encoder_is_saved_to_safetensors_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"\.safetensors file; got .*mine\.pth"):
        trained("all").save(tmp_path / "mine.pth")


@pytest.mark.sweep(3)
@pytest.mark.parametrize("kind", ["state dict", "safetensors", "policy", "zip of Stable-Baselines3"])
@pytest.mark.parametrize("trainable", ["all", ["block4", "head"]])
def test_stages_that_a_checkpoint_leaves_out_come_from_the_weights_it_was_trained_from(
    kind: str, trainable: str | list[str], depth: Tensor, tmp_path: Path
) -> None:
    encoder = trained(trainable, seed=3)
    state = encoder.state_dict()
    path = tmp_path / "weights.pth"
    if kind == "state dict":
        torch.save(state, path)
    elif kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(state, path)
    elif kind == "policy":
        torch.save({"actor_state_dict": {**behind("encoding.encoder.", state), "mlp.0.weight": torch.ones(2)}}, path)
    else:
        path = path.with_suffix(".zip")
        buffer = io.BytesIO()
        torch.save(behind("features_extractor.encoder.", state), buffer)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("policy.pth", buffer.getvalue())
    following = DepthEncoder(NAME, weights=str(path))
    torch.testing.assert_close(following(depth), encoder(depth).detach(), rtol=1e-4, atol=1e-4)
    assert following.provenance.parent == encoder.provenance.sha256


def test_where_those_weights_are_not_at_hand_it_says_which_they_are(
    state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state, tmp_path / "parent.pth")
    encoder = trained(["head"], weights=str(tmp_path / "parent.pth"))
    torch.save(encoder.state_dict(), tmp_path / "child.pth")

    def no_hub(*_: Any, **__: Any) -> None:
        raise WeightsNotFoundError("There is no such revision.")

    find = zoo.find_weights
    monkeypatch.setattr(zoo, "find_weights", lambda name, w="hub", **k: no_hub() if w == "hub" else find(name, w))
    says = rf"only what was trained .*\(head\).*sha256 {encoder.provenance.sha256}.*no such revision.*save\(path\)"
    with pytest.raises(InvalidWeightsError, match=says):
        load_encoder(NAME, tmp_path / "child.pth")


def test_the_checkpoint_of_a_frozen_encoder_says_whose_weights_to_pass(tmp_path: Path) -> None:
    encoder = DepthEncoder(NAME, weights="random")
    torch.save(encoder.state_dict(), tmp_path / "policy.pth")
    with pytest.raises(InvalidWeightsError, match=f"frozen encoder.*sha256 {encoder.provenance.sha256}"):
        load_encoder(NAME, tmp_path / "policy.pth")
