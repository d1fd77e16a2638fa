"""The observation terms in a real environment: metres, features, sharing, resets, latency, sensors, errors."""

import pytest
import torch
from depth_scene import ENCODER, IMAGE, NUM_ENVS, WALL_X_M

from defm_rl import DepthEncoder, normalize_depth
from defm_rl.mjlab import DefmDepth, DefmFeatures, DepthCamera, defm_depth, defm_features, depth_image
from defm_rl.sensors import SimulatedCamera
from defm_rl.terms.sharing import SharedDepth


def step(env, speed=0.0):
    """One step, with a speed for each cart; its observations as tensors that stay."""
    observations = env.step(torch.as_tensor(speed).expand(env.num_envs)[:, None].float())[0]
    return {key: value if isinstance(value, dict) else value.clone() for key, value in observations.items()}


def only_these_time_out(env, ids):
    env.episode_length_buf[:] = 0
    env.episode_length_buf[ids] = env.max_episode_length - 1


def term(env, group, name="features"):
    return env.observation_manager.get_term_cfg(group, name).func


def test_a_camera_sees_the_wall_at_its_distance_in_every_column_and_nothing_in_the_sky(wall):
    wall.reset()
    step(wall, torch.tensor([0.0, 2.0, 4.0]))
    depth = DepthCamera(wall.scene.sensors, "camera").read()
    distance_m = WALL_X_M - wall.scene["robot"].data.joint_pos[:, 0]
    middle = depth[:, IMAGE[0] // 2]  # planar, and not the length of rays: the same in every column
    torch.testing.assert_close(middle, distance_m[:, None].expand(-1, IMAGE[1]), atol=1e-3, rtol=0)
    assert (depth[:, 0] == 0).all()
    assert distance_m[0] - distance_m[2] > 0.1


def test_features_and_images_are_those_of_the_frames(wall):
    seen = step(wall, 1.0)
    depth = DepthCamera(wall.scene.sensors, "camera").read()
    torch.testing.assert_close(seen["images"]["metres"], depth[:, None])
    torch.testing.assert_close(seen["images"]["channels"], normalize_depth(depth, 16))
    torch.testing.assert_close(seen["features"], DepthEncoder(**ENCODER).encode(depth), atol=1e-4, rtol=1e-4)


def test_all_groups_share_one_encoding_per_step_and_what_stays_the_same_is_not_encoded_again(wall):
    wall.reset()
    encoded = term(wall, "features").encoded
    assert encoded is term(wall, "critic").encoded is term(wall, "late").encoded
    assert encoded.encoder.net is term(wall, "sensed").encoded.encoder.net
    before = encoded.images_encoded
    for _ in range(3):
        seen = step(wall, 1.0)
        torch.testing.assert_close(seen["features"], seen["critic"], atol=0, rtol=0)
    assert encoded.images_encoded == before + 3 * NUM_ENVS


def test_a_reset_shows_where_the_robots_are_now_and_begins_latency_and_history_anew(wall):
    wall.reset()
    seen = []
    for index in range(6):
        only_these_time_out(wall, [1] if index == 2 else [])
        seen.append(step(wall, 2.0))
    metres = seen[2]["images"]["metres"][:, 0, IMAGE[0] // 2, 0]
    assert metres[1] == pytest.approx(WALL_X_M, abs=1e-3)
    assert metres[0] < WALL_X_M - 0.1
    late, features = ([observations[key] for observations in seen] for key in ("late", "features"))
    for index in range(3, 6):
        torch.testing.assert_close(late[index][0], features[index - 2][0], atol=0, rtol=0)
    for index in range(2, 5):
        torch.testing.assert_close(late[index][1], features[2][1], atol=0, rtol=0)
    history = seen[2]["history"].reshape(NUM_ENVS, 3, -1)
    for back in range(3):
        torch.testing.assert_close(history[1, back], features[2][1], atol=0, rtol=0)


def test_a_sensor_measures_each_frame_once_for_all_terms_and_begins_with_the_episode(wall):
    wall.reset()
    camera = SimulatedCamera("stereo", NUM_ENVS, step_s=wall.step_dt)
    sensed = term(wall, "images", "sensed").camera
    seen = step(wall, 1.0)["images"]
    camera.reset(episodes=sensed._simulated.episodes)
    camera(seen["metres"][:, 0])  # the frame of the reset; only its number counts
    torch.testing.assert_close(seen["sensed"][:, 0], camera(seen["metres"][:, 0]), atol=0, rtol=0)
    assert term(wall, "sensed").encoded.camera is sensed
    before = sensed._simulated.episodes.clone()
    only_these_time_out(wall, [2])
    step(wall)
    assert (sensed._simulated.episodes != before).tolist() == [False, False, True]


def test_a_reset_of_some_environments_by_hand_leaves_the_others_as_they_were(wall):
    wall.reset()
    before = step(wall, 1.0)["images"]["sensed"].clone()
    after = wall.reset(env_ids=torch.tensor([0]))[0]["images"]["sensed"]
    torch.testing.assert_close(after[1:], before[1:], atol=0, rtol=0)
    assert not torch.equal(after[0], before[0])


def test_noise_follows_the_numbers_of_episodes(wall):
    SharedDepth.of(wall).episodes = lambda: torch.full((NUM_ENVS,), 9)
    try:
        wall.reset()
        seen = wall.get_observations()["images"]["sensed"]
    finally:
        SharedDepth.of(wall).episodes = None
    torch.testing.assert_close(seen[0], seen[1], atol=1e-4, rtol=0)  # the same episode of the same scene
    assert not torch.equal(wall.reset()[0]["images"]["sensed"][0], seen[0])


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (defm_features("kamera", **ENCODER), r"params\.sensor: .*'kamera', did you mean 'camera'"),
        (defm_features("colour", **ENCODER), r"params\.sensor: 'colour' gives no depth but rgb: add 'depth'"),
        (defm_features("camera", data_type="rgb", **ENCODER), r"params\.data_type: 'rgb' is not depth"),
        (defm_features("camera", sensor_model="sterio", **ENCODER), r"params\.sensor_model: .*did you mean 'stereo'"),
        (defm_features("camera", "defm_resnet19", weights="random"), r"params\.encoder: .*'defm_resnet18'"),
        (defm_features("camera", latency_steps=-1, **ENCODER), r"params\.latency_steps: .*-1"),
    ],
)
def test_bad_input_is_an_error_at_construction_that_names_the_key(wall, cfg, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        DefmFeatures(cfg, wall)


def test_errors_name_the_group_and_the_term(wall):
    cfg = wall.cfg.observations["images"].terms["channels"]
    kept, cfg.params = cfg.params, {**cfg.params, "sensor": "lidar"}
    try:
        with pytest.raises(ValueError, match=r"observations\['images'\]\.terms\['channels'\]\.params\.sensor"):
            DefmDepth(cfg, wall)
    finally:
        cfg.params = kept
    with pytest.raises(TypeError, match="unknown setting 'latency_step', did you mean 'latency_steps'"):
        defm_depth("camera", latency_step=2)
    with pytest.raises(ValueError, match="params: size and pad_to"):
        DefmDepth(depth_image("camera", size=16), wall)
