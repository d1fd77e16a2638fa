"""Depth from sensors as versions 2.3 and 3.0 hand it out, and from real cameras and ray casters."""

import math
from types import SimpleNamespace

import pytest
import torch
from depth_tasks import CAMERA_X_M, IMAGE, NUM_ENVS, RAYS, WALL_X_M, WallEnvCfg, hold, make, place
from isaaclab.sensors import MultiMeshRayCasterCameraCfg, RayCasterCameraCfg

from defm_rl.depth import ScaleWarning
from defm_rl.isaaclab import DepthCamera

NAN, INF = float("nan"), float("inf")


class Proxy:
    """What 3.0 hands out in place of a tensor."""

    def __init__(self, tensor):
        self.torch = tensor


def sensor(values, wrap=lambda x: x, data_type="depth", focal_px=2.0, **cfg):
    """A sensor with one row of pixels in one environment."""
    depth = torch.tensor(values, dtype=torch.float32).reshape(1, 1, -1, 1)
    width = depth.shape[2]
    matrix = torch.tensor([[[focal_px, 0.0, width / 2], [0.0, focal_px, 0.5], [0.0, 0.0, 1.0]]])
    data = SimpleNamespace(output={data_type: wrap(depth)}, intrinsic_matrices=wrap(matrix))
    return SimpleNamespace(cfg=SimpleNamespace(data_types=[data_type], **cfg), data=data, image_shape=(1, width))


@pytest.mark.parametrize("wrap", [lambda x: x, Proxy], ids=["2.3", "3.0"])
def test_whatever_is_not_a_measurement_is_zero_in_both_versions(wrap):
    camera = sensor([0.0, INF, -INF, NAN, -1.0, 0.5, 3.0], wrap)
    depth = DepthCamera({"camera": camera}, "camera").read()
    assert depth.tolist() == [[[0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 3.0]]]


def test_the_range_that_a_sensor_writes_for_nothing_hit_is_no_measurement():
    caster = sensor([2.0, 9.999, 10.0], depth_clipping_behavior="max", max_distance=10.0)
    of_2_3 = sensor([2.0, 4.9, 5.0], depth_clipping_behavior="max", spawn=SimpleNamespace(clipping_range=(0.1, 5.0)))
    renderer = SimpleNamespace(depth_clipping_behavior="max")
    of_3_0 = sensor([2.0, 0.3, 0.1], renderer_cfg=renderer, spawn=SimpleNamespace(clipping_range=(0.1, 0.3)))
    unclipped = sensor([2.0, 10.0, 11.0], depth_clipping_behavior="none", max_distance=10.0)
    sensors = {"caster": caster, "2.3": of_2_3, "3.0": of_3_0, "unclipped": unclipped}
    kept = {name: (DepthCamera(sensors, name).read() > 0).flatten().tolist() for name in sensors}
    assert kept == {
        "caster": [True, True, False],
        "2.3": [True, True, False],
        "3.0": [False, False, True],
        "unclipped": [True, True, True],
    }


def test_depth_outside_the_limits_is_no_measurement():
    camera = DepthCamera({"camera": sensor([0.1, 0.2, 4.0, 4.1])}, "camera", min_depth_m=0.2, max_depth_m=4.0)
    torch.testing.assert_close(camera.read().flatten(), torch.tensor([0.0, 0.2, 4.0, 0.0]))


def test_the_sensors_buffer_is_neither_written_to_nor_handed_out():
    camera = sensor([INF, 2.0])
    before = camera.data.output["depth"].clone()
    depth = DepthCamera({"camera": camera}, "camera").read()
    depth.zero_()
    torch.testing.assert_close(camera.data.output["depth"], before)


def test_the_length_of_rays_becomes_depth():
    angles = [math.atan((column + 0.5 - 2) / 2.0) for column in range(4)]
    rays = sensor([3.0 / math.cos(angle) for angle in angles], data_type="distance_to_camera")
    depth = DepthCamera({"camera": rays}, "camera").read()
    torch.testing.assert_close(depth.flatten(), torch.full((4,), 3.0))


@pytest.mark.parametrize(("unit", "per_count"), [("mm", 1e-3), (0.0001, 1e-4)])
def test_another_unit_becomes_metres(unit, per_count):
    counts = sensor([0.5 / per_count, 2.0 / per_count, 6.0 / per_count, INF])
    depth = DepthCamera({"camera": counts}, "camera", unit=unit, max_depth_m=5.0).read()
    torch.testing.assert_close(depth.flatten(), torch.tensor([0.5, 2.0, 0.0, 0.0]))


def test_a_camera_that_gives_millimetres_is_warned_of_by_name_and_once():
    camera = DepthCamera({"wrist": sensor([500.0, 900.0, 0.0, INF])}, "wrist", max_depth_m=5.0)
    with pytest.warns(ScaleWarning, match="'wrist'.*millimetres") as caught:
        torch.stack([camera.read() for _ in range(600)])
    assert len(caught) == 1


class FisheyeCameraCfg:
    clipping_range = (0.1, 10.0)


@pytest.mark.parametrize(
    ("sensors", "settings", "message"),
    [
        ({"cam": sensor([1.0])}, {}, r"p\.sensor: the scene has no sensor 'camera', did you mean 'cam'"),
        (
            {"camera": sensor([1.0], data_type="rgb")},
            {},
            r"p\.sensor: 'camera' gives no depth but rgb: .*scene\.camera",
        ),
        ({"camera": sensor([1.0])}, {"data_type": "rgb"}, r"p\.data_type: 'rgb' is not depth"),
        ({"camera": sensor([1.0])}, {"data_type": "distance_to_camera"}, r"p\.data_type: .* but depth: add it to"),
        ({"camera": SimpleNamespace(cfg=SimpleNamespace())}, {}, r"p\.sensor: .* which gives no images"),
        ({"camera": sensor([1.0])}, {"min_depth_m": 2.0, "max_depth_m": 1.0}, r"p: min_depth_m and max_depth_m"),
        ({"camera": sensor([1.0])}, {"unit": 1000}, r"p\.unit: .*pass 1/1000"),
        (
            {"camera": sensor([1.0], data_type="distance_to_camera", spawn=FisheyeCameraCfg())},
            {},
            r"p\.data_type: .*fisheye",
        ),
    ],
)
def test_an_error_at_construction_names_the_key_and_what_to_do(sensors, settings, message):
    with pytest.raises(ValueError, match=message):
        DepthCamera(sensors, "camera", where="p", **settings)


def test_an_unknown_container_says_which_versions_are_known():
    with pytest.raises(TypeError, match=r"knows Isaac Lab 2\.3 and 3\.0"):
        DepthCamera({"camera": sensor([1.0], wrap=lambda x: x.numpy())}, "camera").read()


@pytest.fixture(scope="module")
def all_sensors():
    cfg = WallEnvCfg()
    cfg.observations.late = cfg.observations.sensed = cfg.observations.history = cfg.observations.maps = (
        cfg.observations.images
    ) = None
    data_types = ["distance_to_image_plane", "distance_to_camera"]
    cfg.scene.rays = RayCasterCameraCfg(mesh_prim_paths=["/World/Ground"], data_types=data_types, **RAYS)
    wall = MultiMeshRayCasterCameraCfg.RaycastTargetCfg(prim_expr="{ENV_REGEX_NS}/Wall", track_mesh_transforms=False)
    cfg.scene.meshes = MultiMeshRayCasterCameraCfg(
        mesh_prim_paths=["/World/Ground", wall], data_types=data_types, **RAYS
    )
    with make(cfg) as env:
        env.reset(seed=0)
        place(env, torch.linspace(-1.0, 2.0, NUM_ENVS))
        hold(env)
        yield env


@pytest.mark.parametrize("data_type", ["depth", "distance_to_camera"])
def test_a_camera_sees_the_wall_at_its_distance(all_sensors, data_type):
    depth = DepthCamera(all_sensors.scene.sensors, "camera", data_type=data_type).read()
    expected = WALL_X_M - CAMERA_X_M - torch.linspace(-1.0, 2.0, NUM_ENVS)
    row = IMAGE[0] // 2  # at the camera's height, which is below the wall's top
    torch.testing.assert_close(depth[:, row], expected[:, None].expand(-1, IMAGE[1]), atol=1e-4, rtol=0)
    assert (depth[0, 0] == 0).all()  # the sky


@pytest.mark.parametrize("name", ["rays", "meshes"])
@pytest.mark.parametrize("data_type", ["distance_to_image_plane", "distance_to_camera"])
def test_ray_casters_see_what_the_camera_sees(all_sensors, name, data_type):
    camera = DepthCamera(all_sensors.scene.sensors, "camera").read()
    caster = DepthCamera(all_sensors.scene.sensors, name, data_type=data_type).read()
    assert caster.isfinite().all()
    if name == "rays":  # which know one mesh, here the ground: it fills the bottom row
        camera, caster = camera[:, -1], caster[:, -1]
    else:  # for targets that do not move, Isaac Lab takes the first environment's alone
        camera, caster = camera[0], caster[0]
    near = camera < 15  # farther away, pixels hit the ground at grazing angles
    torch.testing.assert_close(caster[near], camera[near], atol=1e-2, rtol=1e-2)
    assert near.float().mean() > 0.5
