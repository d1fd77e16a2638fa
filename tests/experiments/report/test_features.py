"""Figures of what a camera does to features, held against their definitions and against what one would expect."""

import numpy as np
import pytest

from defm_rl.experiments.report.features import (
    distances_to,
    feature_gap,
    linear_cka,
    mean_cosine,
    mmd2,
    nearest_cosine,
    nearest_to_recorded,
    relative_shift,
)

RNG = np.random.default_rng(0)
A = RNG.normal(size=(40, 6))


def test_cka_is_kornblith_s_and_blind_to_rotation_and_scale():
    b = A @ RNG.normal(size=(6, 5)) + 0.3 * RNG.normal(size=(40, 5))
    x, y = A - A.mean(0), b - b.mean(0)
    by_definition = np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
    assert linear_cka(A, b) == pytest.approx(by_definition)
    rotation, _ = np.linalg.qr(RNG.normal(size=(6, 6)))
    assert linear_cka(A, 3 * A @ rotation + 7) == pytest.approx(1)
    many = RNG.normal(size=(1000, 6))
    assert linear_cka(many, RNG.normal(size=(1000, 6))) < 0.02
    assert linear_cka(A, np.ones((40, 2))) == 0


def test_cosine_and_shift_by_hand():
    a, b = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    assert mean_cosine(a, b) == pytest.approx((1 / np.sqrt(2) + 1) / 2)
    assert relative_shift(a, b) == pytest.approx(1 / np.sqrt(5))  # both rows move by 1, and are sqrt(5) apart
    assert nearest_cosine(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0], [-1.0, 0.0]])) == pytest.approx(1 / np.sqrt(2))


def test_mmd_is_that_of_its_definition_and_near_zero_for_one_distribution():
    a, b = RNG.normal(size=(5, 3)), RNG.normal(size=(4, 3)) + 2
    both = np.concatenate([a, b])
    pairs = [np.sum((both[i] - both[j]) ** 2) for i in range(9) for j in range(i)]

    def kernel(x, y):
        return np.exp(-np.sum((x - y) ** 2) / (2 * np.median(pairs)))

    def within(rows):
        return np.mean([kernel(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j])

    across = np.mean([kernel(x, y) for x in a for y in b])
    assert mmd2(a, b) == pytest.approx(within(a) + within(b) - 2 * across)
    same = mmd2(RNG.normal(size=(200, 3)), RNG.normal(size=(200, 3)))
    assert abs(same) < 0.01 < mmd2(RNG.normal(size=(200, 3)), RNG.normal(size=(200, 3)) + 1)


def scenes(count=24):
    """A wall at some distance with a nearer box somewhere before it."""
    rng = np.random.default_rng(1)
    frames = np.empty((count, 24, 48), np.float32)
    for frame in frames:
        frame[:] = rng.uniform(2, 2.9)
        left, top = rng.integers(0, 32), rng.integers(0, 12)
        frame[top : top + 12, left : left + 16] = rng.uniform(0.8, 1.5)
    return frames


def encode(frames):
    """A stand-in for an encoder: averages of 6 x 6 pixels."""
    return frames.reshape(len(frames), 4, 6, 8, 6).mean((2, 4)).reshape(len(frames), -1)


def test_a_noisier_camera_moves_features_further():
    ideal, stereo, ladder = feature_gap(encode, scenes(), ["ideal", "stereo", "stereo_ladder"])
    assert (ideal["cosine"], ideal["cka"], ideal["shift"]) == pytest.approx((1, 1, 0))
    assert 0 == ideal["hole_share"] < stereo["hole_share"] < ladder["hole_share"]
    assert 0 < stereo["shift"] < ladder["shift"]
    assert 1 > stereo["cosine"] > ladder["cosine"]
    assert 1 > stereo["cka"] > ladder["cka"]
    assert ideal["mmd"] < ladder["mmd"]


def test_recorded_frames_are_known_by_the_camera_that_made_them():
    from defm_rl.sensors import simulate

    rng = np.random.default_rng(2)
    recorded = simulate(rng.permutation(scenes()), "stereo_ladder", seed=9).numpy()
    gaps = feature_gap(encode, scenes(), ["ideal", "stereo", "stereo_ladder"], recorded)
    assert [row["camera"] for row in gaps] == ["ideal", "stereo", "stereo_ladder", "recorded"]
    assert nearest_to_recorded(gaps) == ["stereo_ladder"]
    assert gaps[2]["farther_low"] == gaps[2]["farther_high"] == 0 < gaps[1]["farther_low"]
    assert gaps[-1]["cosine"] is gaps[-1]["cka"] is gaps[-1]["shift"] is None  # there are no ideal counterparts
    assert gaps[-1]["hole_share"] == pytest.approx((recorded == 0).mean())
    assert nearest_to_recorded(gaps[-1:]) == []


def test_a_stereo_camera_gets_the_range_of_a_recording_from_nearby():
    near = scenes() * np.float32(0.05)  # from 0.04 m on, where it does not search
    stereo, _ = feature_gap(encode, near, ["stereo"], near)
    assert stereo["hole_share"] == 1
    assert stereo["mmd_to_recorded"] < stereo["mmd"]


def test_few_recorded_frames_do_not_tell_cameras_apart_that_are_almost_alike():
    from defm_rl.sensors import simulate

    recorded = simulate(scenes()[:3], "redwood", seed=9).numpy()
    nearest = nearest_to_recorded(feature_gap(encode, scenes(), ["ideal", "redwood", "stereo_ladder"], recorded))
    assert {"ideal", "redwood"} <= set(nearest)


def test_how_far_a_camera_sees_does_not_decide_which_is_nearest():
    """One that sees up to 1.5 m is not nearer to a recording for ending there, too."""
    from defm_rl.sensors import make_sensor, simulate

    rng = np.random.default_rng(2)
    for far_m in (1.5, 2.9):
        sensor = make_sensor("stereo_ladder", max_depth_m=far_m)
        recorded = simulate(rng.permutation(scenes()), sensor, seed=9).numpy()
        gaps = feature_gap(encode, scenes(), ["realsense_parkour", "stereo_ladder"], recorded)
        assert nearest_to_recorded(gaps)[0] == "stereo_ladder"


def test_distances_are_mmd_with_one_kernel():
    a, b = RNG.normal(size=(30, 3)), RNG.normal(size=(30, 3)) + 1
    alone = distances_to(a, {"b": b}, resamples=10)["b"]
    assert alone.mmd == pytest.approx(mmd2(a, b))  # the same width, where there is one candidate
    assert (alone.farther_low, alone.farther_high) == (0, 0)
    two = distances_to(a, {"b": b, "a": RNG.normal(size=(30, 3))})
    assert two["b"].farther_low > 0 == two["a"].farther_low


def test_the_same_seed_gives_the_same_figures():
    assert feature_gap(encode, scenes(), ["stereo"], seed=3) == feature_gap(encode, scenes(), ["stereo"], seed=3)
    assert feature_gap(encode, scenes(), ["stereo"], seed=3) != feature_gap(encode, scenes(), ["stereo"], seed=4)
