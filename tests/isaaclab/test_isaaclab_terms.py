"""The observation terms in a real environment: features, sharing, resets, history, latency, errors."""

import pickle

import pytest
import torch
from depth_tasks import ENCODER, IMAGE, NUM_ENVS, WALL_X_M, hold, place, term
from isaaclab_tasks.utils.hydra import resolve_task_config

import defm_rl.envs.isaaclab  # noqa: F401  (registers the tasks)
from defm_rl import DepthEncoder, normalize_depth
from defm_rl.isaaclab import DefmDepth, DefmFeatures, DepthCamera, defm_depth, defm_features, depth_image


def test_the_features_are_the_encoders_on_the_same_frames(wall):
    observations, *_ = hold(wall)
    depth = DepthCamera(wall.scene.sensors, "camera").read()
    encoder = DepthEncoder(**ENCODER)
    torch.testing.assert_close(observations["features"], encoder.encode(depth), atol=1e-5, rtol=1e-4)
    maps = DepthEncoder(features="P3", pool="columns", bifpn=False, image_size=IMAGE, **ENCODER)
    torch.testing.assert_close(observations["maps"], maps.encode(depth), atol=1e-4, rtol=1e-4)


def test_images_are_metres_or_normalized_channels(wall):
    images = hold(wall)[0]["images"]
    depth = DepthCamera(wall.scene.sensors, "camera").read()
    torch.testing.assert_close(images["metres"], depth[:, None])
    torch.testing.assert_close(images["channels"], normalize_depth(depth, 16))


def test_all_terms_and_groups_share_the_weights_and_one_encoding_per_step(wall):
    features, critic, late, maps = (term(wall, group) for group in ("features", "critic", "late", "maps"))
    assert features.encoded is critic.encoded is late.encoded
    assert maps.encoded is not features.encoded
    assert maps.encoded.encoder.net is features.encoded.encoder.net
    before = features.encoded.encodings, features.encoded.images_encoded
    for step in range(3):
        place(wall, 0.1 * step)  # no two frames alike
        observations, *_ = hold(wall)
        wall.observation_manager.compute()
        torch.testing.assert_close(observations["features"], observations["critic"], atol=0, rtol=0)
    assert features.encoded.encodings == before[0] + 3
    assert features.encoded.images_encoded == before[1] + 3 * NUM_ENVS


def test_an_image_that_stays_the_same_is_not_encoded_again(wall):
    place(wall)
    hold(wall)
    encoded = term(wall, "features").encoded
    before = encoded.encodings
    place(wall)
    hold(wall)
    assert encoded.encodings == before


def only_these_time_out(env, ids):
    env.episode_length_buf[:] = 0
    env.episode_length_buf[ids] = env.max_episode_length - 1


def test_the_step_that_resets_shows_where_the_robots_are_now(wall):
    place(wall, 1.5)
    hold(wall)
    place(wall, 1.5)
    only_these_time_out(wall, [1, 3])
    observations, _, _, truncated, _ = hold(wall)
    assert truncated.tolist() == [False, True, False, True]
    x_m, yaw = observations["policy"][:, 0], observations["policy"][:, 2]
    assert (x_m[[1, 3]].abs() < 0.3).all()
    assert torch.allclose(x_m[[0, 2]], torch.full((2,), 1.5), atol=1e-3)
    # The image's centre, between its two middle pixels, looks along the robot's x axis.
    centre = observations["images"]["metres"][:, 0, IMAGE[0] // 2, IMAGE[1] // 2 - 1 : IMAGE[1] // 2 + 1].mean(1)
    expected = (WALL_X_M - x_m - 0.15 * yaw.cos()) / yaw.cos()
    torch.testing.assert_close(centre, expected, atol=1e-2, rtol=0)
    depth = DepthCamera(wall.scene.sensors, "camera").read()
    torch.testing.assert_close(observations["features"], DepthEncoder(**ENCODER).encode(depth), atol=1e-4, rtol=1e-4)


def test_a_partial_reset_encodes_only_what_changed(wall):
    place(wall, 1.0)
    hold(wall)
    encoded = term(wall, "features").encoded
    before = encoded.images_encoded
    place(wall, 1.0)
    only_these_time_out(wall, [2])
    hold(wall)
    assert encoded.images_encoded == before + 1


def moving(env, steps):
    """Observations of steps in which the robots approach the wall, with a time-out of robot 1 at the third."""
    place(env, 0.0)
    env.reset()
    seen = []
    for step in range(steps):
        place(env, 0.2 * step)
        only_these_time_out(env, [1] if step == 2 else [])
        seen.append({key: value.clone() for key, value in hold(env)[0].items() if key != "images"})
    return seen


def test_latency_is_steps_within_each_robots_episode(wall):
    seen = moving(wall, 6)
    late, features = ([observations[key] for observations in seen] for key in ("late", "features"))
    for step in range(3, 6):
        torch.testing.assert_close(late[step][0], features[step - 2][0], atol=0, rtol=0)
    assert not torch.equal(late[4][0], features[4][0])
    # Robot 1 began anew at step 2: its first image is all that it has seen for two more steps.
    for step in range(2, 5):
        torch.testing.assert_close(late[step][1], features[2][1], atol=0, rtol=0)
    torch.testing.assert_close(late[5][1], features[3][1], atol=0, rtol=0)


def test_reading_twice_does_not_move_time_on(wall):
    place(wall, 0.0)
    wall.reset()
    first = hold(wall)[0]["features"].clone()
    place(wall, 0.5)
    hold(wall)
    for _ in range(3):
        wall.observation_manager.compute()
    place(wall, 1.0)
    torch.testing.assert_close(hold(wall)[0]["late"], first, atol=0, rtol=0)


def test_history_holds_the_last_features_and_none_of_the_episode_before(wall):
    seen = moving(wall, 5)
    history = [observations["history"].reshape(NUM_ENVS, 3, -1) for observations in seen]
    for back in range(3):
        torch.testing.assert_close(history[4][0, 2 - back], seen[4 - back]["features"][0], atol=0, rtol=0)
    for back in range(3):
        torch.testing.assert_close(history[2][1, 2 - back], seen[2]["features"][1], atol=0, rtol=0)


def test_a_sensor_measures_each_frame_once_for_all_terms_and_anew_where_episodes_begin(wall):
    image = next(
        cfg.func
        for cfg in wall.observation_manager._group_obs_class_term_cfgs["images"]
        if cfg.params["sensor_model"] == "stereo"
    )
    place(wall)
    seen = hold(wall)[0]
    sensed = term(wall, "sensed").encoded
    assert sensed.camera is image.camera
    assert not torch.equal(seen["images"]["sensed"], seen["images"]["metres"])
    expected = DepthEncoder(**ENCODER).encode(seen["images"]["sensed"][:, 0])
    torch.testing.assert_close(seen["sensed"], expected, atol=1e-4, rtol=1e-4)
    again = wall.observation_manager.compute()["images"]["sensed"]
    torch.testing.assert_close(again, seen["images"]["sensed"], atol=0, rtol=0)
    before = image.camera._simulated.episodes.clone()
    only_these_time_out(wall, [1, 3])
    hold(wall)
    assert (image.camera._simulated.episodes != before).tolist() == [False, True, False, True]


def test_features_from_a_rollout_in_inference_mode_and_outside_it(wall):
    term = DefmFeatures(defm_features("camera", max_depth_m=50.0, latency_steps=1, **ENCODER), wall)
    with torch.inference_mode():
        term(wall)
    place(wall, 0.6)
    hold(wall)
    term.reset(torch.tensor([1], dtype=torch.int32))
    features = term(wall)
    assert not features.is_inference()
    torch.nn.Linear(features.shape[1], 1)(features).sum().backward()


def test_large_batches_are_encoded_in_chunks(wall):
    whole = DefmFeatures(defm_features("camera", **ENCODER), wall)
    chunked = DefmFeatures(defm_features("camera", chunk=3, **ENCODER), wall)
    torch.testing.assert_close(chunked(wall), whole(wall), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        (defm_features("kamera", **ENCODER), r"params\.sensor: .*'kamera', did you mean 'camera'"),
        (defm_features("camera", data_type="rgb", **ENCODER), r"params\.data_type: 'rgb' is not depth"),
        (
            defm_features("camera", "defm_resnet19", weights="random"),
            r"params\.encoder: .*did you mean 'defm_resnet18'",
        ),
        (defm_features("camera", "defm_efficientnet_b0", weights="/no/such.pth"), r"params\.weights: .*'random'"),
        (defm_features("camera", "defm_efficientnet_b0", weights="random", seed=1), r"params\.seed: .* another term"),
        (defm_features("camera", features="P9", **ENCODER), r"params: .*P9"),
        (defm_features("camera", features="P3", pool="attention", **ENCODER), r"params: .*learned"),
        (defm_features("camera", sensor_model="sterio", **ENCODER), r"params\.sensor_model: .*did you mean 'stereo'"),
        (defm_features("camera", latency_steps=-1, **ENCODER), r"params\.latency_steps: .*-1"),
    ],
)
def test_bad_input_is_an_error_at_construction_that_names_the_key(wall, cfg, message):
    with pytest.raises(ValueError, match=f"(?i){message}"):
        DefmFeatures(cfg, wall)


def test_bad_input_of_the_image_term_is_an_error_at_construction(wall):
    with pytest.raises(ValueError, match="params: size and pad_to"):
        DefmDepth(depth_image("camera", size=16), wall)
    with pytest.raises(ValueError, match=r"params\.sensor"):
        DefmDepth(defm_depth("rover"), wall)
    with pytest.raises(ValueError, match="params: channel_axis"):
        DefmDepth(defm_depth("camera", channel_axis=False), wall)


def test_metres_come_with_or_without_an_axis_for_the_channel(wall):
    with_axis, without = (DefmDepth(depth_image("camera", channel_axis=axis), wall)(wall) for axis in (True, False))
    assert with_axis.shape == (NUM_ENVS, 1, *IMAGE)
    torch.testing.assert_close(with_axis[:, 0], without)


def test_the_error_names_the_groups_and_the_terms_name(wall):
    cfg = wall.cfg.observations.maps.maps
    kept, cfg.params = cfg.params, {**cfg.params, "sensor": "lidar"}
    try:
        with pytest.raises(ValueError, match=r"observations\.maps\.maps\.params\.sensor"):
            DefmFeatures(cfg, wall)
    finally:
        cfg.params = kept


def test_a_wrong_setting_is_an_error_with_the_right_one():
    with pytest.raises(TypeError, match="unknown setting 'latency_step', did you mean 'latency_steps'"):
        defm_features("camera", latency_step=2)


CHANGES = (
    "encoder=defm_resnet18",
    "max_depth_m=5.0",
    "data_type=depth",
    "pool=columns",
    "size=[32,64]",
    "revision=v1",
    "latency_steps=2",
    "sensor_model=stereo",
)


def test_configurations_survive_dictionaries_pickle_and_hydra():
    overrides = [f"env.observations.depth.features.params.{x}" for x in CHANGES]
    cfg, _ = resolve_task_config("defm_rl/Isaac-Navigation-v0", None, overrides=overrides)
    cfg = pickle.loads(pickle.dumps(cfg))
    copy = type(cfg)()
    copy.from_dict(cfg.to_dict())
    for each in (cfg, copy):
        features = each.observations.depth.features
        assert features.func is DefmFeatures or str(features.func).endswith("DefmFeatures")
        changed = {name: features.params[name] for name in (change.split("=")[0] for change in CHANGES)}
        assert changed == {
            "encoder": "defm_resnet18",
            "max_depth_m": 5.0,
            "data_type": "depth",
            "pool": "columns",
            "size": [32, 64],
            "revision": "v1",
            "latency_steps": 2,
            "sensor_model": "stereo",
        }
        assert features.params["features"] == "P3"
