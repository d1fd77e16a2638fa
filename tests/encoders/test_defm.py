"""The published package's names: the same results, called as its users call it."""

import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import load_reference_weights
from torch import Tensor, nn

from defm_rl.defm import (
    DefmCNN,
    DefmViT,
    convert_to_3channel_metric,
    create_defm_model,
    preprocess_depth_batch,
    preprocess_depth_dav2,
    preprocess_depth_image,
)
from defm_rl.encoders import load_encoder
from defm_rl.encoders.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[2]
REFERENCE = np.load(ROOT / "tests" / "reference" / "published.npz")
DEPTH = torch.from_numpy(REFERENCE["depth"])
MAX_RELATIVE_ERROR = 1e-4
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def vit() -> DefmViT:
    network = load_reference_weights(create_defm_model("defm_vit_s14"))
    assert isinstance(network, DefmViT)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def cnn() -> DefmCNN:
    network = load_reference_weights(create_defm_model("defm_regnet_y_400mf"))
    assert isinstance(network, DefmCNN)
    return network.requires_grad_(False)


@pytest.fixture(scope="module")
def x() -> Tensor:
    return preprocess_depth_batch(DEPTH[:1], patch_size=14)


def assert_equals(ours: Tensor, key: str) -> None:
    reference = REFERENCE[key]
    assert tuple(ours.shape) == reference.shape, key
    error = np.abs(ours.detach().numpy() - reference).max() / np.abs(reference).max()
    assert error <= MAX_RELATIVE_ERROR, (key, error)


class TestHub:
    """`torch.hub.load` from this repository."""

    def load(self, name: str, **settings: object) -> nn.Module:
        network: nn.Module = torch.hub.load(str(ROOT), name, source="local", **settings)
        return network

    def test_a_network_with_random_weights(self) -> None:
        network = self.load("defm_resnet18", pretrained=False)
        assert not network.training
        with torch.no_grad():
            out = network(preprocess_depth_batch(DEPTH))
        assert out["global_backbone"].shape == (2, 512)
        assert out["dense_bifpn"]["P4"].shape == (2, 128, 2, 4)

    def test_the_entries_are_the_published_encoders(self) -> None:
        names = runpy.run_path(str(ROOT / "hubconf.py"))
        entries = {name for name, value in names.items() if callable(value) and name.startswith("defm_")}
        assert entries == ARCHITECTURES.keys()
        assert "pretrained_path" in names["defm_vit_l14"].__doc__  # what torch.hub.help shows

    def test_weights_of_a_file(self, tmp_path: Path) -> None:
        weights = load_encoder("defm_efficientnet_b0", "random", seed=3).state_dict()
        torch.save({"model": weights}, tmp_path / "mine.pth")
        for pretrained in (True, False):
            path = str(tmp_path / "mine.pth")
            network = self.load("defm_efficientnet_b0", pretrained=pretrained, pretrained_path=path)
            state = network.state_dict()
            assert state.keys() == weights.keys()
            assert all(torch.equal(state[name], weights[name]) for name in weights)

    def test_random_weights_follow_pytorchs_seed(self) -> None:
        torch.manual_seed(5)
        one = create_defm_model("defm_efficientnet_b0")
        torch.manual_seed(5)
        same, other = create_defm_model("defm_efficientnet_b0"), create_defm_model("defm_efficientnet_b0")
        name = "backbone.features.0.0.weight"
        assert torch.equal(one.state_dict()[name], same.state_dict()[name])
        assert not torch.equal(one.state_dict()[name], other.state_dict()[name])

    def test_an_unknown_name_gets_a_suggestion(self) -> None:
        with pytest.raises(ValueError, match="resnet18"):
            create_defm_model("defm_resnet_18")


class TestViT:
    @pytest.mark.parametrize(("name", "n"), [("last", 1), ("three", 3), ("list", [1, 6, 11]), ("list", (11, 1, 6))])
    @pytest.mark.parametrize("norm", [True, False])
    def test_intermediate_layers(self, name: str, n: int, norm: bool, vit: DefmViT, x: Tensor) -> None:
        layers = vit.get_intermediate_layers(x, n, reshape=True, return_class_token=True, norm=norm)
        assert len(layers) == sum(key.startswith(f"blocks/{name}/{norm}/") for key in REFERENCE.files) / 2
        for i, (maps, token) in enumerate(layers):
            assert_equals(maps[:, ::4], f"blocks/{name}/{norm}/{i}/map")
            assert_equals(token, f"blocks/{name}/{norm}/{i}/token")

    def test_patch_tokens_alone_by_default(self, vit: DefmViT, x: Tensor) -> None:
        (patches,) = vit.get_intermediate_layers(x)
        assert isinstance(patches, Tensor)
        assert_equals(patches, "blocks/patches")

    @pytest.mark.parametrize("n", [0, -1, 13, [], [12], [-1], [3, 3]])
    def test_blocks_that_are_not_there(self, n: int, vit: DefmViT, x: Tensor) -> None:
        with pytest.raises(ValueError, match="from 1 to 12, or a list of blocks from 0 to 11"):
            vit.get_intermediate_layers(x, n)

    def test_another_size_says_what_to_do(self, vit: DefmViT) -> None:
        with pytest.raises(ValueError, match="multiple_of=14"):
            vit.get_intermediate_layers(torch.zeros(1, 3, 32, 64))

    def test_calling_it(self, vit: DefmViT, x: Tensor) -> None:
        assert_equals(vit(x), "vit")
        features = vit(x, is_training=True)
        for key in ("x_norm_clstoken", "x_norm_patchtokens", "x_prenorm"):
            assert_equals(features[key], f"vit/{key}")

    def test_our_own_network_has_them_too(self, x: Tensor) -> None:
        network = load_encoder("defm_vit_s14", "random")
        with torch.no_grad():
            ((maps, token),) = network.get_intermediate_layers(x, reshape=True, return_class_token=True)
            out = network(x)
        torch.testing.assert_close(token, out.global_features)
        torch.testing.assert_close(maps, out.maps["P14"])


class TestCNN:
    @pytest.mark.parametrize("norm", [True, False])
    def test_dicts(self, norm: bool, cnn: DefmCNN) -> None:
        x = preprocess_depth_batch(DEPTH[:1])
        out, plain = cnn(x, norm=norm), cnn.forward_no_bifpn(x, norm=norm)
        assert out.keys() == {"global_backbone", "dense_bifpn"}
        assert plain.keys() == {"global_backbone", "dense_feats"}
        assert_equals(out["global_backbone"], f"cnn/{norm}/global_backbone")
        assert_equals(plain["global_backbone"], f"cnn/{norm}/global_backbone")
        for level in ("P3", "P4", "P5"):
            assert_equals(out["dense_bifpn"][level][:, ::4], f"cnn/{norm}/dense_bifpn/{level}")
            assert_equals(plain["dense_feats"][level][:, ::8], f"cnn/{norm}/dense_feats/{level}")

    def test_another_size_says_what_to_do(self, cnn: DefmCNN) -> None:
        with pytest.raises(ValueError, match="cnn_padding=True"):
            cnn(torch.zeros(1, 3, 48, 64))
        assert cnn.forward_no_bifpn(torch.zeros(1, 3, 48, 64))["dense_feats"]["P3"].shape[-2:] == (6, 8)

    def test_it_is_saved_and_copied_like_any_module(self, cnn: DefmCNN, tmp_path: Path) -> None:
        x = preprocess_depth_batch(DEPTH[:1])
        torch.save(cnn, tmp_path / "whole.pt")
        again = torch.load(tmp_path / "whole.pt", weights_only=False)
        assert torch.equal(again(x)["global_backbone"], cnn(x)["global_backbone"])


def pil(depth: Tensor) -> object:
    return pytest.importorskip("PIL.Image").fromarray(depth.numpy())


class TestPreprocessing:
    @pytest.mark.parametrize(
        "given",
        [
            lambda depth: depth,
            lambda depth: depth.double().requires_grad_(),
            lambda depth: depth[None],
            lambda depth: depth[..., None],
            lambda depth: depth.numpy(),
            lambda depth: torch.stack((depth, depth + 1, depth + 2), dim=-1).numpy(),
            pil,
        ],
        ids=["tensor", "float64", "channel first", "channel last", "array", "three channels", "PIL"],
    )
    def test_an_image(self, given: Callable[[Tensor], object]) -> None:
        image = given(DEPTH[0].clone())
        assert_close(preprocess_depth_image(image, target_size=(30, 60), patch_size=14), "image/14")
        assert_close(preprocess_depth_image(image, target_size=24), "image/square")

    def test_millimetres(self) -> None:
        pillow = pytest.importorskip("PIL.Image")
        counts = (1000 * REFERENCE["depth"][0]).round().astype(np.uint16)
        for image in (counts, pillow.fromarray(counts)):
            with pytest.raises(TypeError, match="unit='mm'"):
                preprocess_depth_image(image)
            rounded = torch.from_numpy(counts.astype(np.float32) / 1000)
            expected = preprocess_depth_image(rounded)
            torch.testing.assert_close(preprocess_depth_image(image, unit="mm"), expected)

    def test_a_batch_is_no_image(self) -> None:
        with pytest.raises(ValueError, match="preprocess_depth_batch"):
            preprocess_depth_image(DEPTH)

    @pytest.mark.parametrize("batch", [DEPTH, DEPTH[:, None], DEPTH.numpy()], ids=["NHW", "N1HW", "array"])
    def test_a_batch(self, batch: Tensor) -> None:
        x = preprocess_depth_batch(batch, target_size=(24, 40), cnn_padding=True, device="cpu")
        assert x.shape[-2:] == (32, 64)
        assert_close(x, "batch/padded")

    def test_inverse_depth(self) -> None:
        inverse = (25 * REFERENCE["depth"][0]).astype(np.uint8)
        assert_close(preprocess_depth_dav2(inverse, target_size=28, patch_size=14), "dav2")
        assert_close(preprocess_depth_dav2(pil(torch.from_numpy(inverse)), target_size=28, patch_size=14), "dav2")

    def test_channels_before_they_are_standardised(self) -> None:
        assert_close(torch.from_numpy(convert_to_3channel_metric(REFERENCE["depth"][0])), "channels")


def assert_close(ours: Tensor, key: str) -> None:
    assert not ours.requires_grad
    assert tuple(ours.shape) == REFERENCE[key].shape
    assert np.abs(ours.numpy() - REFERENCE[key]).max() <= TOLERANCE
