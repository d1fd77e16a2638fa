"""Cameras over time: latency, frame rate, mounting; and the gymnasium wrapper around them."""

import itertools
import math

import numpy as np
import pytest
import torch
from fake_envs import NumberedEnv, vector_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from defm_rl.gymnasium import SimulateSensor
from defm_rl.sensors import MOUNTINGS, SENSORS, MountingJitter, SimulatedCamera, make_sensor, simulate
from defm_rl.sensors import operators as op


def clock(step, num_envs):
    """Depth that tells when it was captured."""
    return torch.full((num_envs, 4, 4), 1.0 + step)


def ages(sensor, num_envs=64, steps=40, step_s=0.05, **kwargs):
    """(steps, num_envs) ages of what is shown, in steps."""
    camera = SimulatedCamera(sensor, num_envs, step_s=step_s, **kwargs)
    return torch.stack([1.0 + k - camera(clock(k, num_envs))[:, 0, 0] for k in range(steps)])


def test_a_delay_in_steps_is_constant_in_an_episode_and_uniform_over_them():
    age = ages(make_sensor("ideal", delay_steps=(0, 2)), num_envs=600)
    assert (age[2:] == age[2]).all()
    shares = torch.bincount(age[5].long(), minlength=3) / 600
    assert (shares - 1 / 3).abs().max() < 0.06
    assert (age[0] == 0).all()


def test_latency_delays_by_what_it_says():
    age = ages(make_sensor("ideal", latency_s=(0.2, 0.26)))
    assert set(age[10:].unique().tolist()) == {4.0, 5.0, 6.0} - ({4.0} if age[10:].min() > 4 else set())
    assert (age[10:] >= 4).all()
    assert (age[10:] <= 6).all()
    torch.testing.assert_close(age[:3], torch.arange(3.0)[:, None].expand(3, 64))  # the first frame is shown at once


def test_a_slow_camera_repeats_frames():
    age = ages(make_sensor("ideal", frame_rate_hz=5.0))  # every fourth step
    assert set(age[5:].unique().tolist()) == {0.0, 1.0, 2.0, 3.0}
    assert (age[4:].reshape(-1, 4, 64).sum(1) == 6).all()
    assert len(age[8].unique()) == 4  # phases differ between environments


def test_a_repeated_frame_has_the_same_noise():
    camera = SimulatedCamera(make_sensor("stereo", frame_rate_hz=10.0), 3, step_s=0.05)
    frames = [camera(torch.full((3, 32, 32), 2.0)) for _ in range(9)]
    same = torch.tensor([[torch.equal(a[i], b[i]) for i in range(3)] for a, b in itertools.pairwise(frames)])
    assert (same[1:].float().mean(0) - 0.5).abs().max() < 0.2


def test_a_reset_forgets_what_was_captured_before_and_leaves_others_alone():
    sensor = make_sensor("ideal", delay_steps=(2, 2))
    camera = SimulatedCamera(sensor, 3)
    for k in range(5):
        camera(clock(k, 3))
    camera.reset(torch.tensor([1]))
    shown = [camera(clock(k, 3))[:, 0, 0].tolist() for k in range(5, 9)]
    assert [x[1] for x in shown] == [6, 6, 6, 7]
    assert [x[0] for x in shown] == [x[2] for x in shown] == [4, 5, 6, 7]


@pytest.mark.parametrize("name", ["realsense_parkour", "zedx", "stereo"])
def test_an_environment_over_time_does_not_depend_on_the_others(name):
    depth = torch.rand(12, 5, 24, 24) * 0.9 + 0.5
    five, some = SimulatedCamera(name, 5, step_s=0.05), SimulatedCamera(name, 5, step_s=0.05)
    for k in range(12):
        if k == 6:
            five.reset(torch.tensor([0, 3]))
            some.reset(torch.tensor([3]))
        expected = five(depth[k])[3]
        torch.testing.assert_close(some(depth[k, 3:4], torch.tensor([3]))[0], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.sweep(5)
@pytest.mark.parametrize("name", SENSORS)
@pytest.mark.parametrize("size", [(48, 96), (17, 23)])
def test_an_episode_of_the_same_number_is_seen_alike_wherever_and_whenever_it_is_played(name, size):
    depth = torch.rand(9, 8, *size) * 0.9 + 0.5
    settings = {"step_s": 0.05, "mounting": MOUNTINGS["navigation"], "horizontal_fov_deg": 87.0}
    alone, last = SimulatedCamera(name, 1, **settings), SimulatedCamera(name, 8, **settings)
    for k in range(5):
        last(depth[k])
        last.reset(torch.tensor([k, 5]))
    alone.reset(episodes=torch.tensor([77]))
    last.reset(torch.tensor([2, 5]), episodes=torch.tensor([3, 77]))
    for k in range(9):
        assert torch.equal(alone(depth[k, 5:6])[0], last(depth[k])[5])


def test_noise_latency_and_mounting_differ_between_numbers():
    sensor = make_sensor("stereo", latency_s=(0.1, 0.4), frame_rate_hz=10.0)
    camera = SimulatedCamera(sensor, 100, step_s=0.05, mounting=MountingJitter(), horizontal_fov_deg=87.0)
    envs = torch.arange(100)
    camera.reset(episodes=envs + 2_000_000)
    assert len(camera.age_steps(envs, torch.full_like(envs, 50)).unique()) > 4
    seen = camera(torch.full((100, 8, 8), 2.0)).flatten(1)
    assert len(seen.unique(dim=0)) == 100


@pytest.mark.parametrize("name", ["stereo", "realsense_parkour"])
def test_episodes_without_numbers_are_all_different(name):
    camera = SimulatedCamera(name, 3, step_s=0.05)
    seen = []
    for _ in range(3):
        seen += list(camera(torch.full((3, 16, 16), 0.8)))
        camera.reset()
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(seen, 2))


def test_restarting_repeats_and_another_seed_does_not():
    camera = SimulatedCamera("stereo", 2)
    depth = torch.full((2, 24, 24), 2.0)
    first = [camera(depth), camera(depth)]
    assert not torch.equal(*first)
    camera.restart()
    assert torch.equal(camera(depth), first[0])
    camera.restart(seed=5)
    assert not torch.equal(camera(depth), first[0])


def test_latency_needs_the_time_of_a_step():
    with pytest.raises(ValueError, match="step_s"):
        SimulatedCamera("realsense_parkour", 2)
    with pytest.raises(ValueError, match="horizontal_fov_deg"):
        SimulatedCamera("ideal", 2, mounting=MountingJitter())


# Mounting


def test_mounting_offsets_fill_their_range_and_change_with_the_episode():
    episodes = torch.arange(5000)
    position, angle = MOUNTINGS["navigation"].sample(0, episodes)
    for offsets, limit in ((position, 0.1), (angle, math.radians(5))):
        assert offsets.abs().max() <= limit
        assert offsets.std() == pytest.approx(limit / math.sqrt(3), rel=0.03)
    assert not torch.equal(position, MOUNTINGS["navigation"].sample(0, episodes + 1)[0])


@pytest.mark.parametrize("angles_deg", [(4.0, 0.0, 0.0), (0.0, -3.0, 0.0), (2.0, 3.0, -5.0)])
def test_turning_the_image_of_a_wall_gives_the_wall_seen_by_the_turned_camera(angles_deg):
    size, focal_px = 64, 60.0
    angles = torch.tensor([angles_deg]).deg2rad()
    turned = op.rotate(torch.full((1, size, size), 2.0), angles, focal_px)[0]
    pixel = (torch.arange(size) - (size - 1) / 2) / focal_px
    rays = torch.stack((pixel.expand(size, size), pixel[:, None].expand(size, size), torch.ones(size, size)), -1)
    expected = 2.0 / (rays @ op.rotation_matrices(angles)[0].T)[..., 2]
    inside = turned > 0
    assert inside.float().mean() > 0.8
    torch.testing.assert_close(turned[inside], expected[inside])


def test_yaw_to_the_right_moves_the_picture_to_the_left():
    depth = torch.full((1, 32, 32), 2.0)
    depth[:, :, 20] = 1.0
    turned = op.rotate(depth, torch.tensor([[0.0, math.atan(5 / 30), 0.0]]), 30.0)[0, 16]
    near = torch.where(turned > 0, turned, math.inf).argmin()
    assert 14 <= near <= 16


def test_mounting_is_constant_in_an_episode_and_drawn_anew_in_the_next():
    camera = SimulatedCamera("ideal", 2, mounting=MountingJitter(), horizontal_fov_deg=80.0)
    depth = torch.rand(2, 32, 32) + 1
    first, second = camera(depth), camera(depth)
    assert torch.equal(first, second)
    assert not torch.equal(first, depth)
    camera.reset(torch.tensor([1]))
    third = camera(depth)
    assert torch.equal(third[0], first[0])
    assert not torch.equal(third[1], first[1])


# The wrapper


def run(env, count=9, seed=0):
    """What each environment showed, in order and with the last frames of episodes: lists of (kind, depth)."""
    shown = [[] for _ in range(env.num_envs)]
    observations, _ = env.reset(seed=seed)
    for i in range(env.num_envs):
        shown[i].append(observations["depth"][i])
    for _ in range(count):
        observations, _, terminated, truncated, infos = env.step(np.zeros(env.action_space.shape))
        ended = np.logical_or(terminated, truncated)
        for i in range(env.num_envs):
            if "final_obs" in infos and infos["final_obs"][i] is not None:
                shown[i].append(infos["final_obs"][i]["depth"])
            shown[i].append(observations["depth"][i])
        if env.metadata["autoreset_mode"] == AutoresetMode.DISABLED and ended.any():
            observations, _ = env.reset(options={"reset_mask": ended})
            for i in np.flatnonzero(ended):
                shown[i].append(observations["depth"][i])
    return shown


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_delays_begin_anew_with_each_episode_in_every_autoreset_mode(mode):
    make = lambda: vector_env(mode=mode, episode_steps=4)  # noqa: E731
    clean = run(make())
    delayed = run(SimulateSensor(make(), make_sensor("ideal", delay_steps=(1, 1))))
    for before, after in zip(clean, delayed, strict=True):
        for k, frame in enumerate(after):
            start = k - k % 5  # an episode is its reset and four steps
            np.testing.assert_array_equal(frame, before[max(k - 1, start)])


def test_the_three_autoreset_modes_show_the_same_frames():
    shown = [run(SimulateSensor(vector_env(mode=mode, episode_steps=3), "stereo", seed=4)) for mode in AutoresetMode]
    for other in shown[1:]:
        for a, b in zip(shown[0], other, strict=True):
            for x, y in zip(a, b, strict=False):
                np.testing.assert_array_equal(x, y)


@pytest.mark.sweep(4)
@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("sensor", ["realsense_parkour", "zedx", "stereo_ladder"])
def test_a_numbered_layout_is_seen_alike_in_every_environment_order_and_autoreset_mode(sensor, mode):
    def frames(*layouts):
        """What is shown from the beginning of layout 77 on, until its end."""
        env = SyncVectorEnv([lambda own=own: NumberedEnv(own) for own in layouts], autoreset_mode=mode)
        shown = run(SimulateSensor(env, make_sensor(sensor, max_depth_m=6.0), step_s=0.05), count=16)
        index = next(i for i, own in enumerate(layouts) if 77 in own)
        before = sum(4 + layout % 4 for layout in layouts[index][: layouts[index].index(77)])
        return shown[index][before : before + 4 + 77 % 4]

    alone = frames([77])
    later = frames([1], [2, 9], [3], [4], [5], [8, 6, 77], [7], [10])
    assert len(alone) == len(later) == 5
    np.testing.assert_array_equal(alone, later)


def test_environments_that_are_not_reset_show_what_they_showed():
    env = SimulateSensor(vector_env(num_envs=3, mode=AutoresetMode.DISABLED), "stereo")
    env.reset(seed=0)
    before = env.step(np.zeros((3, 2)))[0]["depth"]
    after = env.reset(options={"reset_mask": np.array([False, True, False])})[0]["depth"]
    np.testing.assert_array_equal(after[[0, 2]], before[[0, 2]])
    assert not np.array_equal(after[1], before[1])


@pytest.mark.parametrize("box", [False, True])
def test_observations_stay_in_their_space(box):
    env = SimulateSensor(vector_env(box=box, episode_steps=2), "redwood")
    observations, _ = env.reset(seed=0)
    for _ in range(4):
        assert env.observation_space.contains(observations)
        observations, _, _, _, infos = env.step(np.zeros((2, 2)))
        for last in infos.get("final_obs", []):
            assert env.single_observation_space.contains(last)


def test_millimetres_come_back_as_millimetres():
    metres = SimulateSensor(vector_env(), "redwood").reset(seed=0)[0]["depth"]
    env = SimulateSensor(vector_env(millimetres=True), "redwood", unit="mm")
    millimetres = env.reset(seed=0)[0]["depth"]
    assert millimetres.dtype == np.uint16
    both = (metres > 0) & (millimetres > 0)
    assert np.median(np.abs(millimetres[both] / 1000 - metres[both])) < 1e-3


def test_two_cameras_have_noise_of_their_own_and_a_seed_repeats():
    env = SimulateSensor(vector_env(cameras=("front", "rear")), "stereo")
    first = env.reset(seed=3)[0]
    assert not np.array_equal(first["front"] == 0, first["rear"] == 0)
    env.step(np.zeros((2, 2)))
    np.testing.assert_array_equal(env.reset(seed=3)[0]["front"], first["front"])


def test_stacked_frames_are_refused():
    with pytest.raises(ValueError, match="before stacking"):
        SimulateSensor(vector_env(shape=(4, 32, 32)), "stereo", depth_keys=["depth"])


def test_the_wrapper_gives_what_the_function_gives():
    raw = vector_env().reset(seed=2)[0]["depth"]
    seen = SimulateSensor(vector_env(), "stereo").reset(seed=2)[0]["depth"]
    np.testing.assert_array_equal(seen[:, 0], simulate(torch.from_numpy(raw), "stereo", seed=2).numpy())
