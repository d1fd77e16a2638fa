"""How far an encoder's features move when another camera looks: figures of paired and of unpaired frames."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray

from defm_rl.sensors import Sensor, make_sensor, simulate

Features = NDArray[np.float64]
"""(frames, channels)."""

_FOR_WIDTH = 1000  # frames are enough to tell how far frames are apart
CLIP = 5.0  # standard deviations; as the experiments standardize features before the policy sees them


class Gap(TypedDict):
    """What a camera does to an encoder's features; None where it needs paired frames and there are none.

    hole_share: share of the pixels without depth.
    cosine: mean cosine similarity of the features of each frame, seen by the camera and ideally.
    cka: linear CKA of the features, seen by the camera and ideally.
    shift: how far a frame's features move, 1 being as far as those of two ideal frames are apart.
    nearest_cosine: how similar a frame's standardized features are to the nearest of ideal frames of other scenes.
    mmd: squared maximum mean discrepancy to ideal frames of other scenes.
    mmd_to_recorded: the same to the recorded frames, where there are any, the camera having their range.
    farther_low, farther_high: by how much that is more than the nearest camera's, 95 % interval.
    """

    camera: str
    frames: int
    hole_share: float
    cosine: float | None
    cka: float | None
    shift: float | None
    nearest_cosine: float
    mmd: float
    mmd_to_recorded: float | None
    farther_low: float | None
    farther_high: float | None


def feature_gap(
    encode: Callable[[NDArray[np.float32]], Features],
    ideal: NDArray[np.float32],
    sensors: Sequence[str],
    recorded: NDArray[np.float32] | None = None,
    *,
    seed: int = 0,
) -> list[Gap]:
    """Compares what simulated sensors, and recorded frames, do to features with the features of ideal frames.

    Paired figures compare the same frames with and without the sensor's noise (latency and frame rate do not show in
    single frames). Figures of whole sets compare the second half of the frames, seen by the camera, with the first
    half, seen ideally: so "ideal" has figures too, those of nothing but other scenes, to hold the others against.

    To be held against recorded frames, every camera gets the range of these: how far cameras see would else decide
    alone, and that is a setting.

    Args:
        encode: Features of (N, H, W) metres.
        ideal: Ideal frames, (N, H, W) metres, at least four; those of one scene next to each other.
        sensors: Names of simulated sensors.
        recorded: Recorded frames, (M, H, W) metres, at least two. They have no ideal counterparts.
        seed: Of the sensors' noise.

    Returns:
        A row for each sensor, and one called "recorded" where there are recorded frames.
    """

    def see(sensor: Sensor, step: int) -> NDArray[np.float32]:
        return simulate(torch.from_numpy(ideal), sensor, seed=seed, step=step).numpy()

    seen = {name: see(make_sensor(name), step) for step, name in enumerate(sensors)}
    clean = np.asarray(encode(ideal), np.float64)
    half = len(clean) // 2
    standard = _standardizer(clean)
    reference = standard(clean[:half])
    real = None if recorded is None else standard(np.asarray(encode(recorded), np.float64))
    distances: dict[str, Distance] = {}
    if recorded is not None and sensors:
        near_m, far_m = _range_m(recorded)
        ranged = [make_sensor(name).ranged(near_m, far_m) for name in sensors]
        shown = np.where((recorded >= near_m) & (recorded <= far_m), recorded, np.float32(0))
        candidates = {
            name: standard(np.asarray(encode(see(sensor, step)), np.float64))
            for step, (name, sensor) in enumerate(zip(sensors, ranged, strict=True))
        }
        distances = distances_to(standard(np.asarray(encode(shown), np.float64)), candidates, seed=seed)
    rows = []
    for name, frames in seen.items():
        features = np.asarray(encode(frames), np.float64)
        others = standard(features[half:])
        rows.append(
            Gap(
                camera=name,
                frames=len(frames),
                hole_share=float((frames == 0).mean()),
                cosine=mean_cosine(clean, features),
                cka=linear_cka(clean, features),
                shift=relative_shift(standard(clean), standard(features)),
                nearest_cosine=nearest_cosine(others, reference),
                mmd=mmd2(others, reference),
                mmd_to_recorded=distances[name].mmd if distances else None,
                farther_low=distances[name].farther_low if distances else None,
                farther_high=distances[name].farther_high if distances else None,
            )
        )
    if recorded is not None and real is not None:
        rows.append(
            Gap(
                camera="recorded",
                frames=len(recorded),
                hole_share=float((recorded == 0).mean()),
                cosine=None,
                cka=None,
                shift=None,
                nearest_cosine=nearest_cosine(real, reference),
                mmd=mmd2(real, reference),
                mmd_to_recorded=None,
                farther_low=None,
                farther_high=None,
            )
        )
    return rows


def mean_cosine(a: Features, b: Features) -> float:
    """Mean over the rows of the cosine of the angle between a row of `a` and the same row of `b`."""
    return float((_unit(a) * _unit(b)).sum(axis=1).mean())


def linear_cka(a: Features, b: Features) -> float:
    """Centred kernel alignment with linear kernels (Kornblith et al. 2019, arXiv 1905.00414).

    With the columns of X and Y centred it is |Y'X|² / (|X'X| |Y'Y|), |.| being the Frobenius norm: 1 where both tell
    the same frames apart in the same way, up to rotation and scale. With fewer frames than channels it is biased
    upwards: compare it between cameras, not with figures from elsewhere.

    Args:
        a: X, (frames, channels).
        b: Y, (frames, channels) of the same frames; the numbers of channels may differ.

    Returns:
        From 0 to 1; 0 where all rows of one are alike.
    """
    # The Gram matrices (frames, frames) give the same norms, and are smaller where there are many channels.
    k, m = ((x - x.mean(axis=0)) @ (x - x.mean(axis=0)).T for x in (a, b))
    norms = float(np.linalg.norm(k) * np.linalg.norm(m))
    return float((k * m).sum()) / norms if norms > 0 else 0.0


def relative_shift(a: Features, b: Features) -> float:
    """Mean distance between a row of `a` and the same row of `b`, over the mean distance of two rows of `a`."""
    apart = np.sqrt(_squared_distances(a, a))[np.triu_indices(len(a), 1)].mean()
    return float(np.linalg.norm(a - b, axis=1).mean() / max(apart, 1e-12))


def nearest_cosine(queries: Features, reference: Features) -> float:
    """Mean over the queries of the cosine similarity to the nearest of the reference's rows."""
    return float((_unit(queries) @ _unit(reference).T).max(axis=1).mean())


def mmd2(a: Features, b: Features) -> float:
    """Unbiased squared maximum mean discrepancy (Gretton et al. 2012, eq. 3), which can be below 0.

    The kernel is Gaussian; its width is the median distance between rows of both sets together.

    Args:
        a: (frames, channels), at least two frames.
        b: (frames, channels), at least two frames; the numbers of frames may differ.
    """
    both = np.concatenate([a, b])
    squared = _squared_distances(both, both)
    width2 = float(np.median(squared[np.triu_indices(len(both), 1)]))
    kernel = np.exp(-squared / max(width2, 1e-12) / 2)
    n, m = len(a), len(b)
    within_a = (kernel[:n, :n].sum() - n) / (n * (n - 1))
    within_b = (kernel[n:, n:].sum() - m) / (m * (m - 1))
    return float(within_a + within_b - 2 * kernel[:n, n:].mean())


class Distance(NamedTuple):
    """How far a set of frames is from the recorded ones, see `distances_to`."""

    mmd: float
    farther_low: float
    farther_high: float


def distances_to(
    recorded: Features, candidates: Mapping[str, Features], *, resamples: int = 1000, seed: int = 0
) -> dict[str, Distance]:
    """The squared maximum mean discrepancies of candidates to recorded frames, and which differences are certain.

    As `mmd2`, but with one kernel for all: its width is the median distance between rows of the recorded frames and of
    all candidates. By how much a candidate is farther than the nearest one has a percentile bootstrap of 95 %, over the
    recorded frames and over the candidates' frames, which are of the same scenes for all; pairs of one frame with its
    own copy do not count. Frames count as independent, which makes intervals narrow where several are of one scene.

    Args:
        recorded: (frames, channels), at least two frames.
        candidates: (frames, channels) by name, of the same frames.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.
    """
    rng = np.random.default_rng(seed)
    everything = np.concatenate([recorded, *candidates.values()])
    some = everything[rng.permutation(len(everything))[:_FOR_WIDTH]]
    width2 = max(float(np.median(_squared_distances(some, some)[np.triu_indices(len(some), 1)])), 1e-12)

    def kernel(a: Features, b: Features) -> Features:
        return np.exp(-_squared_distances(a, b) / width2 / 2)

    scenes = len(next(iter(candidates.values())))
    # How often each frame is drawn; the first row is the sample itself.
    of_scenes = np.vstack([np.ones(scenes), rng.multinomial(scenes, np.full(scenes, 1 / scenes), resamples)])
    count = len(recorded)
    of_recorded = np.vstack([np.ones(count), rng.multinomial(count, np.full(count, 1 / count), resamples)])

    def within(weights: Features, similar: Features) -> NDArray[np.float64]:
        """The mean over pairs of two frames, for each row of weights."""
        alone = (weights**2).sum(axis=1)
        total = np.einsum("ri,ri->r", weights @ similar, weights) - alone  # each is wholly similar to itself
        return total / np.maximum(weights.sum(axis=1) ** 2 - alone, 1e-12)

    offset = within(of_recorded, kernel(recorded, recorded))[0]  # the same for all, so that no difference depends on it
    apart = {}
    for name, rows in candidates.items():
        across = np.einsum("ri,ri->r", of_scenes @ kernel(rows, recorded), of_recorded) / (scenes * count)
        apart[name] = within(of_scenes, kernel(rows, rows)) - 2 * across
    nearest = min(apart.values(), key=lambda values: float(values[0]))
    return {
        name: Distance(float(values[0] + offset), *map(float, np.percentile((values - nearest)[1:], (2.5, 97.5))))
        for name, values in apart.items()
    }


def nearest_to_recorded(gaps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The cameras whose features are distributed most like those of the recorded frames, the nearest first.

    More than one where they cannot be told apart: where the interval of a difference to the nearest reaches 0.
    """
    known = [row for row in gaps if row["mmd_to_recorded"] is not None and row["farther_low"] <= 0]
    return [row["camera"] for row in sorted(known, key=lambda row: float(row["mmd_to_recorded"]))]


def _range_m(recorded: NDArray[np.float32]) -> tuple[float, float]:
    """From where to where recorded frames have depth, without the outermost half percents."""
    near_m, far_m = np.percentile(recorded[recorded > 0], (0.5, 99.5))
    return float(near_m), float(max(far_m, near_m + 0.01))


def _standardizer(reference: Features) -> Callable[[Features], Features]:
    mean, deviation = reference.mean(axis=0), np.sqrt(reference.var(axis=0) + 1e-8)
    return lambda features: np.clip((features - mean) / deviation, -CLIP, CLIP)


def _unit(rows: Features) -> Features:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def _squared_distances(a: Features, b: Features) -> Features:
    squared = (a**2).sum(axis=1)[:, None] + (b**2).sum(axis=1) - 2 * a @ b.T
    return np.maximum(squared, 0)
