"""Probes find what features hold, and nothing where they hold nothing."""

import numpy as np
import pytest
import torch

from defm_rl import DepthEncoder, probes
from defm_rl.envs.labelled import OBJECTS, SURFACES, UNKNOWN, labelled_scenes
from defm_rl.experiments import statistics
from defm_rl.probes import Maps, features
from defm_rl.probes.baselines import baseline_features, baseline_maps


def clusters(count, classes=4, dim=16, apart=1.0):
    """Features that are noise around the middle of their class."""
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % classes
    return apart * torch.eye(classes, dim)[labels] + 0.1 * torch.randn(count, dim, generator=draw), labels


def test_neighbours_vote_as_the_formula_says():
    train = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    votes = probes.knn(train, labels, torch.tensor([[2.0, 0.0]]), 2, neighbours=(2, 10))
    weights = torch.tensor([1.0, 0.8]) / 0.07
    assert list(votes) == [2]
    torch.testing.assert_close(votes[2][0], weights.softmax(0))
    assert list(probes.knn(train, labels, train, 2, neighbours=(10, 20))) == [3]


@pytest.mark.parametrize(("apart", "low", "high"), [(1.0, 0.97, 1.0), (0.0, 0.1, 0.42)])
def test_classes_are_found_where_features_tell_them(apart, low, high):
    x, labels = clusters(400, apart=apart)
    x = 1000 * x + 5  # the scale of an encoder's features must not matter
    linear = probes.fit_linear(x[:300], labels[:300], 4, steps=200)
    accuracy = probes.top_k_correct(linear(x[300:]), labels[300:]).float().mean()
    assert low <= float(accuracy) <= high
    assert linear.learning_rate in probes.LEARNING_RATES
    assert bool(probes.top_k_correct(linear(x), labels, k=4).all())


def test_one_step_of_the_linear_probe_is_autograds():
    x, labels = clusters(64)
    probe = probes.fit_linear(x, labels, 4, learning_rates=[0.1], steps=1, batch_size=64)
    draw = torch.Generator().manual_seed(0)
    weight = (0.01 * torch.randn(1, 4, 16, generator=draw))[0].requires_grad_()
    chosen = torch.randint(64, (64,), generator=draw)
    standard = (x - probe.mean) / probe.std
    torch.nn.functional.cross_entropy(standard[chosen] @ weight.T, labels[chosen]).backward()
    torch.testing.assert_close(probe.weight, weight.detach() - 0.1 * 64 / 256 * weight.grad)


def test_labels_that_do_not_fit_are_refused():
    x, labels = clusters(20)
    with pytest.raises(ValueError, match="classes from 0 to 2, got 0 to 3"):
        probes.knn(x, labels, x, 3)
    with pytest.raises(ValueError, match="a label for each"):
        probes.fit_linear(x, labels[:5], 4)
    with pytest.raises(ValueError, match=r"or 255, got 3"):
        probes.fit_segmentation(Maps(torch.zeros(1, 2, 1, 1).half(), (1, 1)), torch.full((1, 8, 8), 3), 3)


@pytest.mark.slow
def test_pixels_are_found_where_maps_tell_them_padding_or_not():
    """The map's cells say their class; its last column and row are of padding, and say a wrong one."""
    draw = torch.Generator().manual_seed(0)
    cells = torch.randint(3, (16, 4, 5), generator=draw)
    one_hot = torch.nn.functional.one_hot(cells, 3).permute(0, 3, 1, 2).half()
    masks = cells.repeat_interleave(8, 1).repeat_interleave(8, 2)[:, :28, :34].clone()
    masks[:, :2] = probes.IGNORED
    maps = Maps(one_hot, (28 / 32, 34 / 40))
    probe = probes.fit_segmentation(maps, masks, 3, steps=80, batch_size=8)
    counts = probes.confusion(probe, maps, masks, 3)
    assert int(counts.sum()) == int((masks != probes.IGNORED).sum())
    iou = probes.miou_interval(counts)
    assert iou.low <= iou.value <= iou.high
    assert iou.value > 0.75  # the corners of cells are blurred
    mirrored = probes.confusion(probe, Maps(one_hot.flip(3), maps.covered), masks, 3)
    assert probes.mean_iou(mirrored.sum(0)) < 0.45


def test_mean_iou_is_that_of_classes_that_occur():
    counts = torch.tensor([[6, 2, 0], [0, 4, 0], [0, 0, 0]])
    assert probes.mean_iou(counts) == pytest.approx((6 / 8 + 4 / 6) / 2)


def test_scenes_are_labelled_as_they_look():
    scenes = labelled_scenes(12, (48, 64), seed=3)
    again = labelled_scenes(12, (48, 64), seed=3)
    np.testing.assert_array_equal(scenes.depth, again.depth)
    for task, names in scenes.classes.items():
        counts = np.bincount(scenes.labels[task], minlength=len(names))
        assert counts.max() - counts.min() <= 1
    assert ((scenes.masks == UNKNOWN) == (scenes.depth == 0)).all()
    for depth, mask, gap, distance, kind in zip(
        scenes.depth, scenes.masks, *(scenes.labels[x] for x in ("gap", "distance", "object")), strict=True
    ):
        on_object, beyond = mask == SURFACES.index("object"), mask == SURFACES.index("beyond the gap")
        column = np.nonzero(beyond)[1].mean() / 63
        assert abs(column - (0.18 + 0.16 * gap)) < 0.14
        assert on_object.any()
        assert 0.5 + 0.6 * distance < np.median(depth[on_object]) < 2.0 + 0.6 * distance
        assert depth[beyond].min() > depth[mask == SURFACES.index("wall")].min()
        assert OBJECTS[kind] != "ball" or np.ptp(depth[on_object]) < 0.4


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_an_encoder_sees_more_than_one_that_is_blind():
    """Random weights, which is the worst case; k-NN and linear probe find the gap, and maps the surfaces."""
    scenes = labelled_scenes(200, (64, 96), seed=0)
    train, test = slice(0, 140), slice(140, 200)
    encoder = DepthEncoder("efficientnet_b0", weights="random")
    maps = DepthEncoder("efficientnet_b0", weights="random", features=["P3", "P4", "P5"], network=encoder.net)
    labels = torch.from_numpy(scenes.labels["gap"])

    def rates(encode):
        known, queries = encode(scenes.depth[train]), encode(scenes.depth[test])
        linear = probes.fit_linear(known, labels[train], 5, steps=300)(queries)
        votes = probes.knn(known, labels[train], queries, 5)[20]
        return [statistics.rate(probes.top_k_correct(x, labels[test]).numpy()) for x in (votes, linear)]

    def iou(encode):
        masks = torch.from_numpy(scenes.masks.astype(np.int64))
        probe = probes.fit_segmentation(encode(scenes.depth[train]), masks[train], 4, steps=150)
        return probes.miou_interval(probes.confusion(probe, encode(scenes.depth[test]), masks[test], 4))

    blind = rates(lambda frames: baseline_features("constant", frames))
    seeing = rates(lambda frames: probes.encode_frames(encoder, frames))
    for sees, sees_nothing in zip(seeing, blind, strict=True):
        assert sees_nothing["low"] < 0.2 + 0.05  # chance
        assert sees["low"] > max(0.2, sees_nothing["high"])
    blind_iou = iou(lambda frames: baseline_maps("constant", frames))
    seeing_iou = iou(lambda frames: probes.encode_maps(maps, frames))
    assert seeing_iou.low > blind_iou.high + 0.2


@pytest.mark.usefixtures("untraced")
def test_features_are_encoded_once_and_kept_by_all_that_they_depend_on(tmp_path, monkeypatch):
    frames = [np.full((32, 32), 1.0 + index, np.float32) for index in range(3)]
    encoder = DepthEncoder("efficientnet_b0", weights="random")
    calls = []
    encode = encoder.encode
    monkeypatch.setattr(encoder, "encode", lambda x: calls.append(len(x)) or encode(x))
    first = probes.encode_frames(encoder, frames, cache=tmp_path)
    np.testing.assert_array_equal(probes.encode_frames(encoder, np.stack(frames), cache=tmp_path), first)
    assert calls == [3]
    probes.encode_frames(encoder, [*frames[:2], frames[2] + 0.001], cache=tmp_path)
    assert calls == [3, 3]
    next(iter(tmp_path.glob("*.safetensors"))).write_bytes(b"cut off")
    for some in (frames, [*frames[:2], frames[2] + 0.001]):
        probes.encode_frames(encoder, some, cache=tmp_path)
    assert calls == [3, 3, 3]
    others = {features._key(encoder, what, frames) for what in (encoder.feature_settings, "maps=P3")}
    other = DepthEncoder("efficientnet_b0", weights="random", seed=1)
    assert features._key(other, encoder.feature_settings, frames) not in others
    assert len(others) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_frames_of_several_sizes_keep_their_order():
    frames = [np.full((32, 32 + 32 * (index % 2)), 1.0 + index, np.float32) for index in range(4)]
    encoder = DepthEncoder("efficientnet_b0", weights="random")
    together = probes.encode_frames(encoder, frames)
    alone = torch.cat([encoder.encode(frame[None]) for frame in frames])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)


def test_files_stay_whole_where_frames_are_held_out():
    labels, groups = np.repeat([0, 1], 40), np.repeat(np.arange(8), 10)
    groups[40:] = 9  # the second class is of one file
    test = probes.held_out(labels, groups)
    assert 0.2 <= test[:40].mean() <= 0.55
    assert all(len(set(test[:40][groups[:40] == group])) == 1 for group in range(4))
    np.testing.assert_array_equal(np.flatnonzero(test[40:]), np.arange(28, 40))
