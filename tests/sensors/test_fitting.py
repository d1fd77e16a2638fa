"""A stereo profile fitted to frames: what made them is found again, on other scenes."""

import numpy as np
import pytest
import torch

from defm_rl.sensors import SENSORS, Figures, Stereo, fit_sensor, simulate


def scenes(seed, count=24):
    """Boxes before slanted walls."""
    rng = np.random.default_rng(seed)
    ramp = np.linspace(2, 4, 96, dtype=np.float32) * rng.uniform(0.8, 1.2, (count, 1)).astype(np.float32)
    depth = np.repeat(ramp[:, None], 48, axis=1)
    for frame, row, column, near in zip(
        depth, rng.integers(0, 30, count), rng.integers(0, 70, count), rng.uniform(0.8, 2, count), strict=True
    ):
        frame[row : row + 15, column : column + 20] = near
    return torch.from_numpy(depth)


REAL = Stereo(
    disparity_sigma_px=0.6,
    patch_share=0.25,
    patch_size_px=60.0,
    hole_probability=0.005,
)


@pytest.mark.slow
def test_noise_holes_and_range_of_a_camera_are_found_on_other_scenes():
    recorded = simulate(scenes(1), REAL, seed=9)
    fit = fit_sensor(recorded, scenes(2))
    assert fit.after.hole_share == pytest.approx(fit.recorded.hole_share, abs=0.01)
    assert fit.after.hole_length_px == pytest.approx(fit.recorded.hole_length_px, rel=0.25)
    assert fit.sensor.disparity_sigma_px == pytest.approx(REAL.disparity_sigma_px, rel=0.2)
    assert fit.sensor.max_depth_m == fit.recorded.far_m
    assert abs(fit.before.hole_share - fit.recorded.hole_share) > 0.03  # there was something to fit


def test_a_camera_with_hardly_a_hole_is_fitted_too():
    recorded = simulate(scenes(1, count=4), Stereo(hole_probability=0.001, occlusion=False), seed=9)
    fit = fit_sensor(recorded, scenes(2, count=4))
    assert fit.after.hole_share < fit.before.hole_share
    assert fit.sensor.max_depth_m == fit.recorded.far_m


def test_a_camera_that_sees_nearer_than_the_profile_searches_is_fitted_so():
    near = torch.linspace(0.08, 0.5, 48)[:, None].expand(2, 48, 96).contiguous()
    fit = fit_sensor(simulate(near, Stereo(max_disparity_px=600.0, occlusion=False)), near)
    assert fit.before.near_m > 0.17 > fit.sensor.nearest_m
    assert fit.sensor.nearest_m == pytest.approx(fit.recorded.near_m)
    assert fit.after.near_m == pytest.approx(fit.recorded.near_m, rel=0.05)


def test_noise_of_inverse_depth_does_not_mind_planes_and_their_distance():
    plane = 1 / torch.linspace(0.2, 0.8, 96).expand(4, 48, 96)
    assert Figures.of(plane.contiguous()).inverse_sigma == pytest.approx(0, abs=1e-5)
    noisy = 1 / (1 / plane + 0.01 * torch.randn(plane.shape, generator=torch.Generator().manual_seed(0)))
    assert Figures.of(noisy).inverse_sigma == pytest.approx(0.01, rel=0.05)


def test_lengths_of_holes_are_those_of_runs():
    frame = torch.ones(1, 4, 12)
    frame[0, 0, 2:6] = 0
    frame[0, 1, :2] = 0
    assert Figures.of(frame).hole_length_px == 3
    assert Figures.of(frame).hole_share == pytest.approx(6 / 48)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(ValueError, match="every pixel is a hole"):
        fit_sensor(torch.zeros(2, 48, 96), scenes(1))
    with pytest.raises(TypeError, match="only stereo profiles"):
        fit_sensor(scenes(1), scenes(2), SENSORS["zedx"])
    with pytest.raises(ValueError, match="recorded frames are"):
        fit_sensor(torch.ones(2, 24, 48), scenes(2))
