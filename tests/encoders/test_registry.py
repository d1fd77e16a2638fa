"""Encoders of one's own are known to everything by a name, and wrong ones are refused with what is wrong."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from own_networks import Pyramid, Vector

from defm_rl import DepthEncoder
from defm_rl.encoders import EncoderCard, build_encoder, find_card, list_encoders, load_encoder, register_encoder
from defm_rl.encoders.registry import custom_name, published_name
from defm_rl.encoders.weights import WeightsNotFoundError, WeightsUnavailableError
from defm_rl.observations import describe_encoder
from defm_rl.testing import check_encoder

VECTOR, PYRAMID = "own_networks:Vector", "own_networks:Pyramid"


@pytest.fixture(scope="module")
def registered() -> str:
    card = EncoderCard("their_pyramid", {"global": 4, "P2": 4, "P3": 8}, {"P2": 4, "P3": 8}, ("stem", "last"))
    register_encoder(card, partial(Pyramid, 4))
    return card.name


@pytest.fixture(scope="module")
def depth() -> torch.Tensor:
    return torch.rand(3, 40, 48, generator=torch.Generator().manual_seed(0)) * 5.0


def test_what_is_registered_is_known_by_its_name(registered, depth):
    assert registered in [card.name for card in list_encoders()]
    assert find_card(registered).levels == ("P2", "P3")
    encoder = DepthEncoder(registered, weights="random", features=["P2", "global"], pool="columns", image_size=(40, 48))
    assert encoder.encode(depth).shape == (3, encoder.feature_dim) == (3, 4 * 12 + 4)


def test_a_name_is_given_once_and_never_one_of_defms(registered):
    with pytest.raises(ValueError, match="already"):
        register_encoder(EncoderCard(registered, {"global": 3}), Vector)
    with pytest.raises(ValueError, match="means one of DeFM's"):
        register_encoder(EncoderCard("resnet18", {"global": 3}), Vector)


def test_a_card_that_says_otherwise_than_its_network_is_refused():
    register_encoder(EncoderCard("their_mistake", {"global": 9}, input_channels="metres"), Vector)
    with pytest.raises(ValueError, match=r"'their_mistake' says channels=\{'global': 9\}, and its network has"):
        build_encoder("their_mistake")


def test_a_class_is_named_with_its_arguments_in_one_spelling(depth):
    name = custom_name(VECTOR, {"width": 4, "layers": 2})
    assert name == "own_networks:Vector(layers=2, width=4)"
    assert published_name("own_networks:Vector(width=4,layers=2)") == name
    encoder = DepthEncoder("own_networks:Vector(width=4,layers=2)", weights="random")
    assert encoder.encoder_name == name
    assert encoder.encode(depth).shape == (3, 4)
    assert describe_encoder(encoder).startswith(f"{name} sha256=")


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("own_networks:NoFeatureDim", TypeError, "NoFeatureDim has no feature_dim, the number of features"),
        ("own_networks:SaysNothing", TypeError, "it has no channels"),
        ("own_networks:no_module", TypeError, "must make a torch.nn.Module; it has made int"),
        ("own_networks:Nothing", ValueError, "has no attribute 'Nothing'"),
        ("not_there:Class", ValueError, "there is no module 'not_there' to import it from"),
        ("own_networks:Vector(3)", ValueError, "arguments are given by name"),
        ("own_networks:Vector(width=", ValueError, "is named as"),
        ("own_networks:Vector(widht=3)", TypeError, "widht"),
        ("their_piramid", ValueError, "Did you mean 'their_pyramid'"),
    ],
)
def test_what_is_no_encoder_is_refused_with_what_is_missing(registered, name, error, message):
    with pytest.raises(error, match=message):
        DepthEncoder(name, weights="random")


def test_arguments_that_a_name_cannot_hold_are_refused():
    with pytest.raises(ValueError, match="must be numbers, strings, lists and dicts"):
        custom_name(VECTOR, {"width": torch.ones(1)})


def test_looking_at_an_encoder_does_not_touch_the_random_numbers():
    before = torch.get_rng_state()
    find_card("own_networks:Vector(width=5)")
    load_encoder("own_networks:Vector(width=5)", "random", seed=3)
    assert torch.equal(torch.get_rng_state(), before)


def test_published_weights_of_others_come_by_their_own_means(depth):
    encoder = DepthEncoder("own_networks:WithWeights")
    assert encoder.provenance.source == "hub"
    assert len(encoder.provenance.sha256) == 64
    assert encoder.encode(depth).std(dim=1).max() < 1e-6  # all of one value
    with pytest.raises(WeightsNotFoundError, match=r"Vector has no published weights: pass weights='random'"):
        DepthEncoder(VECTOR)
    with pytest.raises(WeightsUnavailableError, match="ConnectionError: no route to host"):
        DepthEncoder("own_networks:OutOfReach")


def test_weights_in_files_have_the_authors_names(tmp_path, depth):
    theirs = Vector(width=4)
    torch.save(theirs.state_dict(), tmp_path / "theirs.pth")
    encoder = DepthEncoder("own_networks:Vector(width=4)", weights=str(tmp_path / "theirs.pth"))
    channels = depth.clamp(0, 100)[:, None].expand(-1, 3, -1, -1)
    torch.testing.assert_close(encoder.encode(depth), theirs.eval()(channels))


def test_checkpoints_of_an_encoder_that_was_trained_in_part_load_as_weights(tmp_path, depth):
    trained = DepthEncoder(VECTOR, weights="random", trainable=["head"])
    with torch.no_grad():
        trained.net.net.head.weight.add_(1.0)
    torch.save({"policy": {f"encoder.{k}": v for k, v in trained.state_dict().items()}}, tmp_path / "policy.pth")
    again = DepthEncoder(VECTOR, weights=str(tmp_path / "policy.pth"))
    torch.testing.assert_close(again.encode(depth), trained.encode(depth))


def test_a_checkpoint_is_told_from_one_of_other_arguments():
    of = {width: DepthEncoder(f"own_networks:Vector(width={width})", weights="random") for width in (4, 5)}
    with pytest.raises(RuntimeError, match=r"made with encoder 'own_networks:Vector\(width=4\)'"):
        of[5].load_state_dict(of[4].state_dict())


def test_what_varies_in_training_mode_does_not_where_a_policy_trains_it(depth):
    encoder = DepthEncoder(PYRAMID, weights="random", trainable="all").train()
    statistics = encoder.net.stem[1].running_mean.clone()
    torch.testing.assert_close(encoder(depth), encoder.encode(depth))
    assert torch.equal(encoder.net.stem[1].running_mean, statistics)
    supervised = DepthEncoder(PYRAMID, weights="random", trainable="all", stochastic_depth=True).train()
    supervised(depth)
    assert not torch.equal(supervised.net.stem[1].running_mean, statistics)


def test_depth_comes_as_the_network_says_it_takes_it():
    depth = torch.tensor([[[0.0, 1.0], [float("nan"), 200.0]]])
    metres, log = (copy.copy(DepthEncoder(VECTOR, weights="random")) for _ in range(2))
    log.card = EncoderCard("log", {"global": 8}, input_channels="log")
    assert metres._normalized(depth)[0, 2].tolist() == [[0.0, 1.0], [0.0, 100.0]]
    np.testing.assert_allclose(log._normalized(depth)[0, 1], [[0.0, np.log(2) / np.log(101)], [0.0, 1.0]], rtol=1e-6)


@pytest.mark.parametrize("name", [VECTOR, PYRAMID, "small_vit", pytest.param("resnet18", marks=pytest.mark.slow)])
def test_the_kit_passes_what_is_right(name):
    check_encoder(name, (40, 48))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_networks:BatchDependent", "depends on the others in its batch"),
        ("own_networks:Chance", "depends on the others|depends on chance"),
        ("own_networks:TooLong", r"'global' must be \(3, 8\), is \(3, 7\)"),
        ("own_networks:LeftOut", "'last.weight' belongs to 0 of the stages"),
    ],
)
def test_the_kit_finds_what_is_wrong(name, message):
    with pytest.raises(AssertionError, match=message):
        check_encoder(name, (32, 32))


@pytest.mark.parametrize("channels", ["defm", "log"])
def test_torchvisions_resnet_is_torchvisions(channels, depth):
    torchvision = pytest.importorskip("torchvision")
    name = f"defm_rl.encoders.TorchvisionResNet(input_channels={channels!r})".replace(".Torch", ":Torch")
    encoder = DepthEncoder(name, weights="random")
    theirs = torchvision.models.resnet18()
    theirs.fc = torch.nn.Identity()
    weights = dict(encoder.net.named_buffers())
    theirs.load_state_dict({key: weights.get(key, x) for key, x in theirs.state_dict().items()})
    colors = encoder.net._colors(encoder._normalized(depth))
    torch.testing.assert_close(encoder.encode(depth), theirs.eval()(colors), rtol=1e-3, atol=1e-3)


def test_torchvisions_card_is_its_network():
    pytest.importorskip("torchvision")
    for name in ("torchvision_resnet18", "torchvision_resnet34", "torchvision_resnet50"):
        assert sum(x.numel() for x in build_encoder(name).parameters()) == find_card(name).parameters
    check_encoder("torchvision_resnet18", (32, 32))


@pytest.mark.parametrize(
    "model",
    [
        "model='mobilenetv3_small_100'",
        "model='resnet10t', input_channels='log'",
        "model='vit_tiny_patch16_224', depth=2",
    ],
)
def test_timms_models_are_encoders(model):
    pytest.importorskip("timm")
    check_encoder(f"defm_rl.encoders:TimmEncoder({model})", (32, 32))


def test_a_library_that_is_missing_is_named_with_its_extra():
    try:
        import timm  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"pip install 'defm-rl\[timm\]'"):
            find_card("defm_rl.encoders:TimmEncoder")


def test_colors_beside_depth_pass_through_untouched(registered):
    gymnasium = pytest.importorskip("gymnasium")
    from gymnasium import spaces

    from defm_rl.gymnasium import EncodeDepth

    class Cameras(gymnasium.Env):
        observation_space = spaces.Dict(
            {
                "depth": spaces.Box(0.0, 10.0, (32, 32), np.float32),
                "rgb": spaces.Box(0, 255, (32, 32, 3), np.uint8),
            }
        )
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

    given = gymnasium.vector.SyncVectorEnv([Cameras, Cameras])
    env = EncodeDepth(given, registered, weights="random")
    assert env.single_observation_space["rgb"] == given.single_observation_space["rgb"]
    for camera in given.envs:
        camera.observation_space.seed(0)
    observations, _ = env.reset()
    assert observations["depth"].shape == (2, 4)
    before = observations["rgb"].copy()
    for camera in given.envs:
        camera.observation_space.seed(0)
    plain, _ = given.reset()
    np.testing.assert_array_equal(before, plain["rgb"])
