"""Adapting an encoder: it learns, keeps its parent, says what it is, and can be stopped at any time."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from defm_rl import DepthEncoder, adaptation
from defm_rl.adaptation import Frames, Settings, Standardization, adapt, load_into, network_sha256
from defm_rl.encoders.weights import ADAPTATION, InvalidWeightsError
from defm_rl.observations import FeatureBox, describe_encoder
from defm_rl.sensors import Stereo

SIZE = (32, 32)
KWARGS = {"features": "P3", "grid": (2, 2), "bifpn": False, "image_size": SIZE}
FAST = Settings(steps=20, batch=8, validate_every=5, validation_frames=16, learning_rate=3e-3)
QUIET = {"progress": False}


def encoder(weights="random", seed=0, **changes):
    return DepthEncoder("defm_regnet_y_400mf", weights=str(weights), seed=seed, **{**KWARGS, **changes})


@pytest.fixture(scope="module")
def frames():
    """Boxes before a wall, eight frames of each of twelve scenes."""
    rng = np.random.default_rng(0)
    depth = np.full((96, *SIZE), 4.0, np.float32) * rng.uniform(0.5, 1, (96, 1, 1)).astype(np.float32)
    for frame, (row, column), near in zip(depth, rng.integers(0, 20, (96, 2)), rng.uniform(0.5, 2, 96), strict=True):
        frame[row : row + 12, column : column + 12] = near
    return Frames.of(depth, np.arange(96) // 8)


@pytest.fixture(scope="module")
def parent():
    return encoder()


@pytest.fixture(scope="module")
def adapted(parent, frames):
    return adapt(parent, frames, ["stereo_ladder"], held_out_sensors=["stereo"], settings=FAST, **QUIET)


@pytest.fixture(scope="module")
def file(adapted, tmp_path_factory):
    return adapted.save(tmp_path_factory.mktemp("weights") / "ladder.safetensors", note="For a test.")


def test_features_of_the_cameras_frames_move_to_those_of_ideal_ones_on_scenes_that_were_held_out(adapted):
    before, after = adapted.record["loss_before"], adapted.record["loss_after"]
    assert after["stereo_ladder"] < 0.9 * before["stereo_ladder"]
    assert adapted.record["kept_step"] > 0
    assert before["ideal"] == pytest.approx(0, abs=1e-5)  # the copy begins as its parent
    assert set(before) == {"stereo_ladder", "ideal", "stereo"}  # one that is not trained on is looked at


def test_the_parent_stays_as_it_is(parent, adapted):
    assert parent.frozen
    assert network_sha256(parent) == adapted.record["parent"] == encoder().provenance.sha256


def test_the_weights_are_taken_wherever_weights_are_and_give_the_adapted_features(file, adapted, frames):
    depth = frames.metres(slice(0, 4), torch.device("cpu"))
    torch.testing.assert_close(encoder(file).encode(depth), adapted.encoder.encode(depth))
    assert not torch.allclose(encoder(file).encode(depth), encoder().encode(depth))


def test_the_file_says_what_it_was_made_of_and_the_card_and_the_curve_lie_beside_it(file):
    with safe_open(file, "pt") as opened:
        record = json.loads(opened.metadata()[ADAPTATION])
    assert record["encoder"] == "defm_regnet_y_400mf"
    assert record["weights"] == "random"
    assert record["frames"] == 96
    assert list(record["sensors"]) == ["stereo_ladder"]
    card = file.with_suffix(".md").read_text()
    assert record["parent"] in card
    assert "RANDOM" in card
    assert "For a test." in card
    steps = [line.split(",")[0] for line in file.with_suffix(".csv").read_text().splitlines()]
    assert steps == ["step", "0", "5", "10", "15", "20"]


def test_an_adaptation_stands_for_its_parent_with_the_features_it_was_made_for_and_no_others(parent, file):
    same, others = encoder(file), encoder(file, grid=(1, 4))
    assert same.stands_for == parent.provenance.sha256 != same.provenance.sha256
    assert others.stands_for == others.provenance.sha256


def box(made):
    return FeatureBox(made.feature_dim, describe_encoder(made))


def test_trainers_accept_an_adaptation_of_the_encoder_and_nothing_else(parent, file):
    assert box(encoder(file)) == box(parent)
    assert box(encoder(file)) != box(encoder(seed=1))
    assert box(encoder(file, grid=(1, 4))) != box(encoder(grid=(1, 4)))


def test_checkpoints_accept_an_adaptation_of_the_frozen_encoder_and_nothing_else(parent, file):
    encoder(file).load_state_dict(parent.state_dict())
    with pytest.raises(RuntimeError, match="other weights"):
        encoder(file).load_state_dict(encoder(seed=1).state_dict())
    with pytest.raises(RuntimeError, match="other weights"):  # the checkpoint holds a stage of the parent
        encoder(file, trainable=["block4"], features="global").load_state_dict(
            encoder(trainable=["block4"], features="global").state_dict()
        )


@pytest.mark.parametrize("parts", ["norms", ["stem"]])
@pytest.mark.sweep(2)
def test_only_the_chosen_parts_change(parent, frames, parts, tmp_path):
    made = adapt(
        parent, frames, ["stereo"], settings=Settings(steps=20, batch=8, validate_every=10, parts=parts), **QUIET
    )
    state = load_file(made.save(tmp_path / "parts.safetensors"))
    own = {**dict(parent.net.named_parameters()), **dict(parent.net.named_buffers())}
    changed = {name for name in state if not torch.equal(state[name], own[name])}
    assert changed
    prefixes = parent.net.stage_prefixes()["stem"]
    assert all(name.startswith(prefixes) if parts == ["stem"] else state[name].ndim == 1 for name in changed)


def test_features_are_held_against_each_other_as_the_policy_sees_them(parent, frames):
    steady = Settings(steps=1, batch=4, validate_every=1)
    wide = Standardization(torch.zeros(parent.feature_dim), torch.full((parent.feature_dim,), 1e3))
    near, far = (
        adapt(parent, frames, ["stereo"], standardization=x, settings=steady, **QUIET).record["loss_before"]["stereo"]
        for x in ("each", wide)
    )
    assert far < 1e-3 * near
    with pytest.raises(ValueError, match=r"policy sees 3 features and the encoder gives"):
        adapt(parent, frames, ["stereo"], standardization=Standardization(torch.zeros(3), torch.ones(3)), **QUIET)


def test_each_camera_is_standardized_as_its_own(parent, frames):
    two = Frames(frames.depth_mm, frames.scenes, np.arange(len(frames)) % 2)
    mean, std = torch.zeros(2, parent.feature_dim), torch.ones(2, parent.feature_dim)
    std[1] = 1e6  # nothing of the second is seen
    steady = Settings(steps=1, batch=4, validate_every=1, validation_frames=8)
    both = adapt(parent, two, ["stereo"], standardization=Standardization(mean, std), settings=steady, **QUIET)
    one = adapt(parent, two, ["stereo"], standardization=Standardization(mean[0], std[0]), settings=steady, **QUIET)
    assert both.record["loss_before"]["stereo"] < one.record["loss_before"]["stereo"]


def test_what_was_interrupted_goes_on_to_the_same_weights_and_leaves_no_file_before(
    parent, frames, tmp_path, monkeypatch
):
    settings = Settings(steps=12, batch=8, validate_every=4, minutes=1000)
    whole = adapt(parent, frames, ["stereo"], settings=settings, **QUIET)
    checkpoint = tmp_path / "under_way.partial"
    learn = adaptation._Work._learn

    def interrupted(work):
        if work.step == 7:
            raise KeyboardInterrupt
        learn(work)

    with monkeypatch.context() as patch:
        patch.setattr(adaptation._Work, "_learn", interrupted)
        with pytest.raises(KeyboardInterrupt):
            adapt(parent, frames, ["stereo"], settings=settings, checkpoint=checkpoint, **QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["under_way.partial"]
    others = dataclasses.replace(frames, depth_mm=frames.depth_mm + np.uint16(1))
    for given, camera, kwargs in (
        (frames, "zedx", {}),
        (others, "stereo", {}),
        (frames, "stereo", {"standardization": Standardization(torch.zeros(416), torch.ones(416))}),
    ):
        with pytest.raises(ValueError, match="other settings, frames or weights"):
            adapt(parent, given, [camera], settings=settings, checkpoint=checkpoint, **kwargs, **QUIET)
    resumed = adapt(parent, frames, ["stereo"], settings=settings, checkpoint=checkpoint, **QUIET)
    assert not checkpoint.exists()
    assert [row["step"] for row in resumed.curve] == [row["step"] for row in whole.curve]
    assert resumed.record["loss_after"]["stereo"] == pytest.approx(whole.record["loss_after"]["stereo"], rel=0.05)


def test_frames_of_one_source_are_the_same_though_a_simulator_gave_others(frames):
    again = dataclasses.replace(frames, depth_mm=frames.depth_mm + np.uint16(1))
    assert again.sha256 != frames.sha256
    first, second = (dataclasses.replace(some, source="task, by=both") for some in (frames, again))
    assert first.sha256 == second.sha256


def test_a_few_frames_are_of_two_scenes_so_that_some_can_be_held_out():
    few = Frames.of(np.full((20, 32, 32), 1.5, np.float32))
    assert len(np.unique(few.scenes)) == 2
    for share in (0.1, 0.9):
        train, held = adaptation._split(few.scenes, share, seed=0)
        assert len(train) == len(held) == 10


def test_sensors_of_one_name_are_refused():
    with pytest.raises(ValueError, match="several sensors would be called 'stereo'"):
        adaptation._cameras([Stereo(disparity_sigma_px=0.05), Stereo(disparity_sigma_px=0.5)])
    assert adaptation._cameras(["stereo", Stereo()]) == {"stereo": Stereo()}


def test_a_damaged_checkpoint_is_refused(parent, frames, tmp_path):
    (tmp_path / "x.partial").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="remove it to start anew"):
        adapt(parent, frames, ["stereo"], settings=FAST, checkpoint=tmp_path / "x.partial", **QUIET)


def test_a_file_is_whole_or_not_there(adapted, tmp_path, monkeypatch):
    def fails(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fails)
    with pytest.raises(OSError, match="disk full"):
        adapted.save(tmp_path / "new.safetensors")
    assert not list(tmp_path.glob("*.safetensors*"))
    with pytest.raises(ValueError, match=r"\.safetensors"):
        adapted.save(tmp_path / "new.pth")


def test_it_ends_when_nothing_gets_better(parent, frames):
    settings = Settings(batch=4, validate_every=1, validation_frames=4, patience=3, learning_rate=10.0)
    assert adapt(parent, frames, ["redwood"], settings=settings, **QUIET).record["steps"] < 20


@pytest.mark.parametrize("size", [(32, 32), (48, 96), (7, 160)])
def test_holes_are_patches_of_another_share_for_each_frame(size):
    shares, joined = [], []
    for seed in range(20):
        seen = adaptation._with_holes(torch.full((16, *size), 2.0), 0.4, np.random.default_rng(seed))
        holes = seen == 0
        assert torch.equal(seen[~holes], torch.full_like(seen[~holes], 2.0))
        shares += holes.float().mean((1, 2)).tolist()
        joined.append((holes[..., 1:] & holes[..., :-1]).sum() / holes[..., :-1].sum())
    assert max(shares) <= 0.4
    assert np.mean(shares) == pytest.approx(0.2, abs=0.02)
    assert np.std(shares) == pytest.approx(0.4 / 12**0.5, abs=0.02)  # uniform
    assert np.mean(joined) > 0.5  # by chance, the neighbour of a hole is one in 27 of 100


def test_holes_are_for_training_alone(parent, frames):
    settings = dataclasses.replace(FAST, steps=5, holes=0.3)
    made = adapt(parent, frames, ["stereo"], settings=settings, **QUIET)
    plain = adapt(parent, frames, ["stereo"], settings=dataclasses.replace(FAST, steps=5), **QUIET)
    assert made.record["settings"]["holes"] == 0.3
    assert made.record["loss_before"] == plain.record["loss_before"]
    assert made.curve[-1] != plain.curve[-1]


def test_recorded_pairs_are_one_more_camera(parent, frames):
    clean = frames.metres(slice(None), torch.device("cpu"))
    seen = clean.clone()
    seen[:, :16] = 0  # half of what this camera sees is missing
    made = adapt(parent, frames, pairs=(Frames.of(clean, frames.scenes), Frames.of(seen)), settings=FAST, **QUIET)
    assert made.record["loss_after"]["pairs"] < 0.8 * made.record["loss_before"]["pairs"]


def test_sensors_of_ones_own_and_networks_of_ones_own(frames, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(SIZE[0] * SIZE[1], 8), nn.ReLU())
    before = copy.deepcopy(network.state_dict())
    made = adapt(network, frames, {"mine": Stereo(hole_probability=0.5)}, settings=Settings(steps=200), **QUIET)
    assert made.record["loss_after"]["mine"] < 0.9 * made.record["loss_before"]["mine"]
    assert all(torch.equal(x, before[name]) for name, x in network.state_dict().items())
    path = made.save(tmp_path / "own.safetensors")
    load_into(network, load_file(path), path)
    torch.testing.assert_close(network(torch.ones(1, *SIZE)), made.encoder(torch.ones(1, *SIZE)))
    with pytest.raises(InvalidWeightsError, match="does not hold weights of the Linear"):
        load_into(nn.Linear(3, 3), load_file(path), path)


def test_an_encoder_that_was_trained_with_a_policy_is_told_apart_by_its_values(frames, tmp_path):
    tuned = encoder(trainable="all")
    with torch.no_grad():
        for parameter in tuned.parameters():
            parameter.mul_(1.1)
    assert network_sha256(tuned) != tuned.provenance.sha256
    made = adapt(tuned, frames, ["stereo"], settings=Settings(steps=2, batch=4, validate_every=1), **QUIET)
    path = made.save(tmp_path / "tuned.safetensors")
    load_into(tuned, load_file(path), path)
    depth = frames.metres(slice(0, 4), torch.device("cpu"))
    torch.testing.assert_close(tuned(depth).detach(), made.encoder(depth))
    assert tuned.trainable  # it stays what it was


def test_what_does_not_fit_is_refused_with_what_to_do(parent, frames):
    with pytest.raises(ValueError, match="at least one sensor"):
        adapt(parent, frames, **QUIET)
    with pytest.raises(ValueError, match="did you mean 'stereo'"):
        adapt(parent, frames, ["sterio"], **QUIET)
    with pytest.raises(ValueError, match="trainable must be"):
        adapt(parent, frames, ["stereo"], settings=Settings(parts=["s9"]), **QUIET)
    with pytest.raises(ValueError, match="do not depend on block4"):
        adapt(parent, frames, ["stereo"], settings=Settings(parts=["block4"]), **QUIET)
    with pytest.raises(TypeError, match="mm"):
        Frames.of(np.full((4, *SIZE), 2000, np.uint16))
    with pytest.raises(ValueError, match="millimetres"):
        Frames.of(np.full((4, *SIZE), 2000.0, np.float32))
    with pytest.raises(ValueError, match="one scene"):
        adapt(parent, Frames.of(np.ones((4, *SIZE), np.float32), [0] * 4), ["stereo"], **QUIET)
    with pytest.raises(ValueError, match="minutes must be at least 0"):
        Settings(minutes=-1)


def test_millimetres_that_are_said_to_be_so_are_taken():
    np.testing.assert_array_equal(Frames.of(np.full((4, *SIZE), 2000, np.uint16), unit="mm").depth_mm, 2000)


def test_a_header_that_makes_no_sense_is_refused(tmp_path, adapted):
    path = adapted.save(tmp_path / "x.safetensors")
    save_file(load_file(path), path, metadata={ADAPTATION: "{}"})
    with pytest.raises(InvalidWeightsError, match="damaged"):
        encoder(path)


def test_features_of_a_network_inside_a_policy_keep_their_scales():
    features = torch.randn(100, 2) * torch.tensor([1.0, 10.0])
    each, together = (Standardization.of(features, scale) for scale in ("each", "all"))
    torch.testing.assert_close(each.std, features.std(0, correction=0), rtol=1e-4, atol=1e-4)
    assert together.std[0] == together.std[1]


def test_a_camera_that_sees_nothing_of_the_task_is_warned_of(caplog):
    near, far = np.full((8, 16, 16), 0.2), np.full((8, 16, 16), 2.0)
    frames = Frames.of(np.concatenate([far, near]).astype(np.float32), views=[0] * 8 + [1] * 8)
    assert adaptation.lost_shares(frames, "kinect_nguyen")[1] == 1.0
    assert adaptation.lost_shares(frames, "kinect_nguyen")[0] < 0.5
    assert max(adaptation.lost_shares(frames, "ideal").values()) == 0.0
    adaptation._warn_of_blind(frames, adaptation._cameras(["kinect_nguyen", "stereo"]))
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "kinect_nguyen, which sees from 0.4 to 3 m, 100 % of what camera 1" in caplog.text
