"""Sensors with one of their effects switched off: the others stay."""

import math

import pytest
import torch

from defm_rl.sensors import SENSORS, SimulatedCamera, compose, make_sensor, simulate, taken_apart


def test_without_noise_the_truth_is_measured_but_no_further():
    ramp = torch.linspace(0.2, 9.5, 48).expand(1, 32, 48).contiguous()
    for name in ("stereo", "kinect_nguyen", "zedx", "dextrah", "realsense_parkour"):
        sensor = make_sensor(f"{name}_without_noise")
        seen = simulate(ramp, sensor)
        inside = (ramp >= sensor.min_depth_m) & (ramp <= sensor.max_depth_m)
        torch.testing.assert_close(seen, torch.where(inside, ramp, 0.0))
        timing = ("latency_s", "delay_steps", "frame_rate_hz", "max_depth_m")
        assert all(getattr(sensor, field) == getattr(SENSORS[name], field) for field in timing)
        assert sensor.min_depth_m == SENSORS[name].nearest_m


def test_without_range_it_measures_everywhere_as_it_does_within():
    for name in ("kinect_nguyen", "zedx", "realsense_parkour", "dextrah"):
        sensor, whole = make_sensor(f"{name}_without_range"), SENSORS[name]
        far = torch.full((4, 32, 48), 8.0)
        assert (simulate(far, sensor) > 0).float().mean() > 0.9
        inside = torch.full((4, 32, 48), 1.0)
        torch.testing.assert_close(simulate(inside, sensor), simulate(inside, whole))
        assert sensor.delay_steps == whole.delay_steps


@pytest.mark.parametrize("name", ["stereo", "stereo_ladder"])
def test_the_end_of_the_search_for_disparity_is_a_part_of_the_range(name):
    near = torch.full((2, 48, 64), 0.1)
    assert SENSORS[name].nearest_m == pytest.approx(0.177, abs=1e-3)  # f B / 126 px
    assert (simulate(near, name) == 0).all()
    assert (simulate(near, f"{name}_without_noise") == 0).all()
    seen = simulate(near, f"{name}_without_range")[:, :, 40:]  # right of what the other camera does not see
    assert (seen > 0).float().mean() > 0.5
    assert (seen[seen > 0] - 0.1).abs().max() < 1e-3


def test_composed_sensors_without_range_see_what_either_would_cut():
    both = compose(SENSORS["stereo"], SENSORS["realsense_parkour"])
    assert both.nearest_m == SENSORS["stereo"].nearest_m
    depth = torch.full((2, 48, 64), 0.1)  # nearer than the search for disparity
    depth[1] = 2.5  # farther than realsense_parkour sees
    assert not simulate(depth, both).any()
    assert ((simulate(depth, both.without("range")) > 0).float().mean((1, 2)) > 0.2).all()


def test_a_sensor_of_another_range_measures_all_of_it():
    depth = torch.full((2, 48, 64), 0.1)  # nearer than any measures
    depth[1] = 12.0  # farther
    for sensor in (SENSORS["stereo"], SENSORS["zedx"], compose(SENSORS["stereo"], SENSORS["zedx"])):
        assert not simulate(depth, sensor).any()
        wide = sensor.ranged(0.05, 20.0)
        assert wide.nearest_m == pytest.approx(0.05)
        assert ((simulate(depth, wide) > 0).float().mean((1, 2)) > 0.2).all()


def test_redwood_without_range_sees_what_its_own_rule_cuts():
    far = torch.full((1, 32, 48), 20.0)
    assert (simulate(far, "redwood") == 0).all()
    assert (simulate(far, "redwood_without_range") > 0).any()


def test_without_latency_and_without_frame_rate_frames_are_those_of_now():
    slow = make_sensor("realsense_parkour_without_latency")
    assert slow.frame_rate_hz == 10.0
    assert slow.latency_s == (0.0, 0.0)
    assert make_sensor("realsense_parkour_without_frame_rate").frame_rate_hz == math.inf
    camera = SimulatedCamera("zedx_without_latency", 4, step_s=0.2)
    assert (camera.age_steps(torch.arange(4), torch.full((4,), 9)) == 0).all()


def test_a_sensor_says_what_it_does_and_what_it_has_not_cannot_be_switched_off():
    assert make_sensor("ideal").effects == ()
    assert make_sensor("stereo").effects == ("noise", "range")
    assert make_sensor("realsense_parkour").effects == ("noise", "range", "latency", "frame_rate")
    assert taken_apart("zedx") == {part: f"zedx_without_{part}" for part in ("noise", "range", "latency")}
    assert taken_apart("ideal") == {}
    with pytest.raises(ValueError, match="has no 'latency' to be without"):
        make_sensor("stereo_without_latency")
    with pytest.raises(ValueError, match="unknown sensor 'sterio'"):
        make_sensor("sterio_without_noise")


def test_several_effects_are_switched_off_one_after_the_other():
    assert taken_apart("zedx_without_noise") == {
        part: f"zedx_without_noise_without_{part}" for part in ("range", "latency")
    }
    for name in SENSORS:
        for without_one in taken_apart(name).values():
            for part, without_two in taken_apart(without_one).items():
                assert make_sensor(without_two) == make_sensor(without_one).without(part)
                assert part not in make_sensor(without_two).effects
    assert make_sensor("stereo_without_noise_without_range").effects == ()
    with pytest.raises(ValueError, match="has no 'noise' to be without"):
        make_sensor("zedx_without_noise_without_latency_without_noise")
    with pytest.raises(ValueError, match="has no 'noise' to be without"):
        make_sensor("zedx_without_noise_without_range_without_noise")
