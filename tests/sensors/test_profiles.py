"""Each profile against its formula, measured on large samples."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage, stats

from defm_rl.sensors import SENSORS, Noise, SimulatedCamera, check_depth, compose, make_sensor, simulate
from defm_rl.sensors import operators as op

ALL = list(SENSORS)


def flat(metres, batch=64, size=64):
    return torch.full((batch, size, size), metres)


def scene(batch=4, size=64):
    """A slanted floor, a wall, a box in front of it and some holes; within every sensor's range."""
    rows = torch.linspace(0.6, 1.2, size)[:, None].expand(size, size).flip(0).clone()
    rows[20:50, 24:40] = 0.6
    rows[5:9, 5:9] = 0.0
    return rows.expand(batch, -1, -1).clone()


def noise(batch, seed=0, step=0):
    envs = torch.arange(batch)
    return Noise(seed, envs, torch.full_like(envs, step))


# Random numbers


def test_normal_and_uniform_numbers_have_their_distributions():
    x = noise(256).normal(64, 64)
    assert stats.kstest(x.flatten()[:200_000].numpy(), "norm").pvalue > 1e-3
    assert abs(x.mean()) < 4e-3
    assert abs(x.std() - 1) < 4e-3
    assert abs(stats.kurtosis(x.flatten().numpy())) < 0.02
    a, b = noise(256, seed=2).normal_pair(64, 64)
    for one in (a, b):
        assert stats.kstest(one.flatten()[:200_000].numpy(), "norm").pvalue > 1e-3
    turns = (torch.atan2(b, a) / (2 * math.pi)).remainder(1.0)  # of independent ones the direction is uniform
    assert stats.kstest(turns.flatten()[:200_000].numpy(), "uniform").pvalue > 1e-3
    u = noise(256, seed=1).uniform(64, 64)
    assert stats.kstest(u.flatten()[:200_000].numpy(), "uniform").pvalue > 1e-3
    assert u.min() >= 0
    assert u.max() < 1


def test_neighbours_in_space_environment_time_seed_and_draw_are_uncorrelated():
    first = noise(200)
    x = first.normal(50, 50)
    others = [
        first.normal(50, 50),
        *first.normal_pair(50, 50),
        noise(200, step=1).normal(50, 50),
        noise(200, seed=1).normal(50, 50),
        x.roll(1, 0),
    ]
    others += [x.roll(1, 1), x.roll(1, 2), x.roll(25, 1)]  # 25 rows: the two halves of Box-Muller pairs
    for y in others:
        assert abs(float((x * y).mean())) < 5 / math.sqrt(x.numel())
        assert abs(float((x.square() * y.square()).mean()) - 1) < 10 / math.sqrt(x.numel())


# What holds for every sensor


@pytest.mark.parametrize("name", ALL)
def test_an_environment_does_not_depend_on_the_rest_of_the_batch(name):
    depth = scene(8)
    together = simulate(depth, name, seed=3, step=7)
    alone = simulate(depth[5:6], name, seed=3, step=7, envs=torch.tensor([5]))
    torch.testing.assert_close(together[5:6], alone, rtol=1e-5, atol=1e-6)
    backwards = simulate(depth, name, seed=3, step=7, envs=torch.arange(7, -1, -1))
    torch.testing.assert_close(together, backwards.flip(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in ALL if name != "ideal"])
def test_the_same_seed_and_step_repeat_and_others_do_not(name):
    depth = scene()
    seen = simulate(depth, name, seed=1, step=2)
    assert torch.equal(seen, simulate(depth, name, seed=1, step=2))
    for other in (simulate(depth, name, seed=2, step=2), simulate(depth, name, seed=1, step=3)):
        assert not torch.equal(seen, other)
    assert not torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("name", ALL)
def test_holes_stay_holes_and_what_is_out_of_range_becomes_one(name):
    sensor = SENSORS[name]
    depth = scene()
    seen = simulate(depth, name)
    assert (seen[depth == 0] == 0).all()
    assert (seen > 0).float().mean() > 0.3
    ends = seen[seen > 0].aminmax()
    assert ends.min >= sensor.min_depth_m
    assert ends.max <= sensor.max_depth_m
    assert seen.isfinite().all()
    if sensor.max_depth_m < math.inf:
        assert (simulate(flat(sensor.max_depth_m * 2, 2), name) == 0).float().mean() > 0.99
    strange = torch.full((1, 32, 32), math.nan)
    strange[0, 0, :4] = torch.tensor([math.inf, -1.0, 0.0, 0.9])
    assert (simulate(strange, name)[0, 1:] == 0).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_dtype_and_input_are_kept(name, dtype):
    depth = scene(2).to(dtype)
    before = depth.clone()
    seen = simulate(depth, name)
    assert seen.dtype == dtype
    assert seen.shape == depth.shape
    assert torch.equal(before, depth)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("size", [(2, 2), (16, 90), (33, 17)])
def test_any_image_size_works(name, size):
    assert simulate(torch.full((2, *size), 0.8), name).shape == (2, *size)


# Formulas


@pytest.mark.parametrize("depth_m", [0.7, 1.7, 4.1])
def test_redwood_sigma_and_steps(depth_m):
    seen = simulate(flat(depth_m), "redwood").double()
    steps = 35.13 * 8 / seen
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=2e-3)
    disparity_sigma = (35.13 / seen).std()
    # Rounding adds a variance of step^2 / 12 on average over depths; at a single depth it is within a step.
    unrounded = simulate(flat(depth_m), make_sensor("redwood", disparity_steps_per_px=1e3)).double()
    assert (35.13 / unrounded).std() == pytest.approx(0.02778, rel=0.02)
    assert disparity_sigma < 0.02778 + 1 / 8


def test_redwood_sees_nothing_from_ten_metres_on():
    assert (simulate(flat(9.5, 2), "redwood") > 0).float().mean() > 0.9
    assert (simulate(flat(10.0, 2), "redwood") == 0).all()


def test_redwood_reads_neighbours_as_often_as_the_jitter_says():
    columns = torch.arange(64.0).expand(64, 64, 64)
    (read,) = op.shift_pixels(columns, noise(64), 0.25)
    moved = (read != columns)[..., 1:-1].float().mean()
    assert moved == pytest.approx(2 * stats.norm.sf(0.5 / 0.25), rel=0.03)


@pytest.mark.parametrize("depth_m", [0.5, 1.3, 2.5])
def test_kinect_axial_sigma_of_depth(depth_m):
    sensor = make_sensor("kinect_nguyen", horizontal_fov_deg=2.0)  # a narrow view: the angle is zero everywhere
    seen = simulate(flat(depth_m), sensor).double()
    assert (seen - depth_m).std() == pytest.approx(0.0012 + 0.0019 * (depth_m - 0.4) ** 2, rel=0.02)


@pytest.mark.sweep(3)
@pytest.mark.parametrize("angle_deg", [0.0, 30.0, 60.0, 75.0])
def test_the_angle_of_a_plane_and_the_noise_on_it(angle_deg):
    focal_px = op.focal_length_px(64, 57.0)
    x = (torch.arange(64) - 31.5) / focal_px
    y = ((torch.arange(16) - 7.5) / focal_px)[:, None].expand(16, 64)
    plane = (1.0 / (1 + x * math.tan(math.radians(angle_deg)))).expand(64, 16, 64)
    plane = torch.where(plane > 0, plane, 0.0).clone()
    normal = torch.tensor([math.sin(math.radians(angle_deg)), 0.0, math.cos(math.radians(angle_deg))])
    rays = torch.stack((x.expand(16, 64), y, torch.ones(16, 64)), -1)
    expected = ((rays @ normal) / rays.norm(dim=-1)).clamp(-1, 1).acos()
    valid = (plane[0] > 0) & (expected < 1.5)
    angle = op.surface_angle(plane[:1], focal_px)[0]
    torch.testing.assert_close(angle[valid], expected[valid], rtol=0, atol=5e-3)
    sensor = make_sensor("kinect_nguyen", native_width_px=10**9, max_depth_m=100.0, min_depth_m=0.0)
    seen = simulate(plane, sensor)
    column = 40  # off the centre, one ray per column near the middle row
    t = float(expected[7, column])
    z = float(plane[0, 7, column])
    t = min(t, math.radians(80))
    sigma = 0.0012 + 0.0019 * (z - 0.4) ** 2 + 0.0001 / math.sqrt(z) * (t / (math.pi / 2 - t)) ** 2
    sample = torch.stack([simulate(plane, sensor, step=k)[:, 7:9, column] for k in range(20)])
    assert seen.shape == plane.shape
    assert float(sample.std()) == pytest.approx(sigma, rel=0.06)


def test_edges_between_objects_are_not_taken_for_steep_surfaces():
    depth = flat(2.0, 1)
    depth[:, :, 32:] = 1.0
    assert op.surface_angle(depth, 1e4).max() < 0.05


@pytest.mark.parametrize("depth_m", [0.5, 2.0, 6.0])
def test_stereo_sigma_grows_with_depth_squared(depth_m):
    sensor = make_sensor("stereo", disparity_steps_per_px=1e4, hole_probability=0.0, occlusion=False)
    constant = 848 / 2 / math.tan(math.radians(87) / 2) * 0.05
    assert sensor.disparity_constant_m_px == pytest.approx(constant)
    seen = simulate(flat(depth_m), sensor).double()
    assert seen[seen > 0].std() == pytest.approx(depth_m**2 * 0.08 / constant, rel=0.03)


def test_stereo_disparity_comes_in_32nds_of_a_pixel():
    seen = simulate(flat(2.3), "stereo").double()
    steps = make_sensor("stereo").disparity_constant_m_px / seen[seen > 0] * 32
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=5e-3)


def test_stereo_holes_are_as_many_as_published():
    assert (simulate(flat(2.0), make_sensor("stereo", occlusion=False)) == 0).float().mean() == pytest.approx(
        0.02, rel=0.03
    )


def test_stereo_sees_nothing_nearer_than_its_search_range():
    sensor = make_sensor("stereo")
    nearest = sensor.disparity_constant_m_px / 126
    assert (simulate(flat(nearest * 0.98, 2), "stereo") == 0).all()
    assert (simulate(flat(nearest * 1.05, 2), make_sensor("stereo", occlusion=False)) > 0).float().mean() > 0.9


@pytest.mark.parametrize("width", [64, 424])
def test_stereo_loses_the_shadow_left_of_an_object_and_the_band_at_the_left_border(width):
    sensor = make_sensor("stereo", hole_probability=0.0)
    depth = torch.full((64, 48, width), 2.0)
    left, right = width // 2, width * 3 // 4
    depth[:, :, left:right] = 0.5
    lost = simulate(depth, sensor) == 0
    scale = width / 848
    band, near = sensor.disparity_constant_m_px / 2.0 * scale, sensor.disparity_constant_m_px / 0.5 * scale
    assert lost[:, :, : width // 4].sum(2).float().mean() == pytest.approx(band, abs=0.05 + 0.02 * band)
    shadow = lost[:, :, width // 4 : left].sum(2).float().mean()
    assert shadow == pytest.approx(near - band, abs=0.05 + 0.02 * near)
    assert not lost[:, :, left:].any()


def test_nothing_is_hidden_on_a_wall_that_comes_nearer():
    depth = (1.0 / torch.linspace(0.4, 1.2, 64)).expand(16, 64, 64)
    sensor = make_sensor("stereo", hole_probability=0.0)
    assert (simulate(depth, sensor)[:, :, 8:] > 0).all()


def test_nothing_is_hidden_on_a_floor():
    depth = (1.0 / torch.linspace(0.1, 1.0, 64))[:, None].expand(4, 64, 64)
    sensor = make_sensor("stereo", hole_probability=0.0, max_depth_m=50.0)
    assert (simulate(depth, sensor)[:, :, 8:] > 0).all()


@pytest.mark.parametrize("share", [0.05, 0.3])
def test_patches_cover_their_share_in_blobs_and_stay_for_some_frames(share):
    sensor = make_sensor(
        "stereo", hole_probability=0.0, occlusion=False, patch_share=share, patch_size_px=40.0, patch_frames=4
    )
    lost = torch.stack([simulate(flat(2.0, 200), sensor, step=k) == 0 for k in range(12)])
    assert lost.float().mean() == pytest.approx(share, rel=0.1)
    changes = (lost[1:] != lost[:-1]).flatten(2).any(2).float().mean()
    assert changes == pytest.approx(1 / 4, abs=0.05)
    blobs = [ndimage.label(image)[1] for image in lost[0].numpy()]
    assert np.mean(blobs) < 0.02 * lost[0, 0].sum() + 12


def test_stereo_edges_are_lost_on_both_sides():
    depth = torch.full((16, 48, 848), 2.0)
    depth[:, :, 400:] = 1.0
    sensor = make_sensor("stereo", hole_probability=0.0, occlusion=False, edge_width_px=5.0, edge_jump_px=3.0)
    lost = (simulate(depth, sensor) == 0).sum(2).float()
    assert lost.mean() == pytest.approx(10, abs=0.5)


@pytest.mark.parametrize("width", [64, 424])
def test_a_floor_has_no_edges(width):
    rows = torch.arange(1.0, width // 2 + 1)
    depth = (0.25 * op.focal_length_px(width, 87.0) / rows)[:, None].expand(
        4, width // 2, width
    )  # seen from 0.25 m above
    sensor = make_sensor(
        "stereo", hole_probability=0.0, occlusion=False, edge_width_px=20.0, edge_jump_px=1.0, max_depth_m=100.0
    )
    assert (simulate(depth, sensor)[depth < 10] > 0).all()


def test_the_fitted_stereo_loses_as_much_of_a_ladder_as_a_real_one():
    """A D435 on a quadruped in front of ladders lost between 16 and 43 % of its pixels."""
    depth = torch.full((8, 480, 848), 1.4)
    for row in (60, 200, 340):
        depth[:, row : row + 50] = 0.6
    depth[:, :, 150:210] = 0.55
    depth[:, :, 640:700] = 0.6
    share = (simulate(depth, "stereo_ladder") == 0).flatten(1).float().mean(1)
    assert (share > 0.16).all()
    assert (share < 0.43).all()
    assert (simulate(depth, "stereo") == 0).float().mean() < share.mean()


def test_zedx_disparity_on_a_wall_and_failures_at_edges():
    seen = simulate(flat(3.0), "zedx")
    constant = 25 * 0.12
    step_m = 3.0**2 / constant / 32
    assert (seen[seen > 0] - 3.0).abs().max() <= step_m  # the mean of equal disparities
    depth = flat(4.0, 64)
    depth[:, :, 32:] = 1.0
    lost = (simulate(depth, "zedx") == 0).float().mean((0, 1))
    assert lost[30:34].mean() > 3 * lost[:24].mean()


def test_zedx_matches_as_often_as_its_probability_says():
    sensor = make_sensor("zedx", match_chance=(0.5, 0.5))
    depth = flat(2.0, 1500)
    depth[:, ::16, ::16] = 2.2  # something to look at, or the difference is nil and nothing fails but by chance
    lost = (simulate(depth, sensor) == 0)[:, 4:12, 4:12].float().mean()
    assert lost == pytest.approx(0.5**9, rel=0.25)  # none of 3x3


@pytest.mark.parametrize(("depth_m", "sigma_m"), [(0.8, 0.02), (2.5, 0.08)])
def test_parkour_noise_near_and_far(depth_m, sigma_m):
    seen = simulate(flat(depth_m), make_sensor("realsense_parkour", max_depth_m=10.0))
    assert (seen - depth_m).std() == pytest.approx(sigma_m, rel=0.02)


def test_parkour_artefacts_on_what_is_too_close():
    depth = flat(1.0)
    depth[:, :16, :32] = 0.1  # a quarter of these columns: sparks
    depth[:, :, 40:] = 0.1  # whole columns: blocks
    seen = simulate(depth, "realsense_parkour")
    sparks = seen[:, :16, :32]
    assert (sparks > 0).float().mean() == pytest.approx(0.02, rel=0.1)
    assert (sparks[sparks > 0] == 1.5).all()
    blocks = seen[:, :, 40:]
    assert set(blocks.unique().tolist()) == {0.0, 0.25, 0.5, 1.0}  # 3 m is out of range
    assert (blocks > 0).float().mean() > 0.4


def test_dextrah_steps_and_sigma():
    sensor = make_sensor(
        "dextrah", normal_sigma_m=0.0, dropout_probability=0.0, random_probability=0.0, stick_probability=0.0
    )
    seen = simulate(flat(1.0), sensor).double()
    steps = 35.13 * 8 / seen
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    depths = seen.unique()
    assert depths.diff().mean() == pytest.approx(0.0036, rel=0.05)
    # Disparity at 1 m is 281.04 steps: rounding N(281.04, 1/6) leaves 281 but for the tails.
    other = (steps.round() != 281).double().mean()
    expected = stats.norm.sf(0.46 * 6) + stats.norm.sf(0.54 * 6)
    assert other == pytest.approx(expected, rel=0.1)


def test_dextrah_rates():
    base = {"dropout_probability": 0.0, "random_probability": 0.0, "stick_probability": 0.0}
    depth = flat(0.9, 256)
    dropped = simulate(depth, make_sensor("dextrah", **{**base, "dropout_probability": 0.0125 / 4})) == 0
    assert dropped.float().mean() == pytest.approx(0.0125 / 4, rel=0.06)
    wrong = simulate(depth, make_sensor("dextrah", **{**base, "random_probability": 0.0125 / 4}))
    far_off = wrong[(wrong - 0.9).abs() > 0.06]
    assert len(far_off) / wrong.numel() == pytest.approx(0.0125 / 4 * (0.8 - 0.12) / 0.8, rel=0.06)
    assert stats.kstest(far_off[far_off < 0.84].numpy(), stats.uniform(0.5, 0.34).cdf).pvalue > 1e-3


def test_sticks_are_as_many_and_as_large_as_they_should():
    drawn = op.sticks(noise(4000), 64, 64, 0.001 / 4, 18.0, 3.0)
    none = (drawn.flatten(1) == 0).all(1).float().mean()
    assert none == pytest.approx(math.exp(-0.001 / 4 * 64 * 64), abs=0.03)
    labels = [ndimage.label(image > 0, np.ones((3, 3))) for image in drawn[:400].numpy()]
    for values, (label, count) in zip(drawn[:400].numpy(), labels, strict=True):
        for rows, columns in ndimage.find_objects(label) if count == 1 and len(np.unique(values)) == 2 else []:
            length = math.hypot(rows.stop - rows.start, columns.stop - columns.start)
            assert length <= math.hypot(18, 3) + 2
    sizes = [(image > 0).sum() for image in drawn.numpy()]
    assert np.max(sizes) > 30
    assert np.mean(sizes) < 0.001 / 4 * 64 * 64 * 18 * 3


# Making sensors


def test_an_unknown_sensor_or_parameter_suggests_the_right_one():
    with pytest.raises(ValueError, match="did you mean 'redwood'"):
        make_sensor("redwod")
    with pytest.raises(TypeError, match="did you mean 'baseline_m'"):
        make_sensor("stereo", baseline=0.1)
    with pytest.raises(ValueError, match="hole_probability must be in"):
        make_sensor("stereo", hole_probability=2.0)
    with pytest.raises(ValueError, match="no range"):
        make_sensor("ideal", max_depth_m=0.0)
    with pytest.raises(ValueError, match="least, largest"):
        make_sensor("ideal", latency_s=(0.2, 0.1))


@pytest.mark.parametrize("name", ALL)
def test_every_sensor_names_its_source(name):
    assert SENSORS[name].source
    assert hash(SENSORS[name]) == hash(make_sensor(name))


def test_millimetres_are_refused_and_far_pixels_are_not():
    with pytest.raises(ValueError, match="millimetres"):
        simulate(torch.full((2, 32, 32), 1500.0), "stereo")
    with pytest.raises(TypeError, match="unit='mm'"):
        simulate(torch.full((2, 32, 32), 1500, dtype=torch.int32), "stereo")
    mixed = torch.full((2, 32, 32), 1.5)
    mixed[:, :4] = 1000.0
    assert (simulate(mixed, "stereo")[:, :4] == 0).all()
    millimetres = np.full((2, 32, 32), 1500, np.uint16)
    torch.testing.assert_close(
        simulate(millimetres, "redwood", unit="mm"), simulate(torch.full((2, 32, 32), 1.5), "redwood")
    )


def test_composed_sensors_act_one_after_the_other():
    both = compose(make_sensor("realsense_parkour"), make_sensor("zedx"))
    assert (both.min_depth_m, both.max_depth_m) == (0.25, 1.5)
    assert (both.delay_steps, both.latency_s, both.frame_rate_hz) == ((0, 2), (0.20, 0.26), 10.0)
    depth = scene()
    by_hand = noise(4)
    expected = SENSORS["zedx"](SENSORS["realsense_parkour"](depth, by_hand), by_hand)
    torch.testing.assert_close(simulate(depth, both), torch.where(expected <= 1.5, expected, 0.0))


@pytest.mark.parametrize("unit", ["mm", 1e-4, 1 / 5000])
def test_counts_and_a_limit_are_what_metres_with_holes_are(unit):
    metres = torch.full((2, 32, 32), 1.5)
    metres[:, :4] = 4.0
    counts = (metres / (1e-3 if unit == "mm" else unit)).round().to(torch.int32)
    holes = metres.where(metres < 3.0, 0.0)
    expected = simulate(holes, "redwood")
    torch.testing.assert_close(simulate(counts, "redwood", unit=unit, max_depth_m=3.0), expected)
    torch.testing.assert_close(check_depth(counts, unit, max_depth_m=3.0), holes)
    torch.testing.assert_close(SimulatedCamera("redwood", 2, unit=unit, max_depth_m=3.0)(counts), expected)
    counts[:] = torch.iinfo(torch.int32).max
    assert not check_depth(counts, unit).any()


def test_millimetres_are_refused_behind_a_limit_too():
    with pytest.raises(ValueError, match="millimetres"):
        simulate(torch.full((2, 32, 32), 1500.0), "stereo", max_depth_m=10.0)
