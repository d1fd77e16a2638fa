"""Which parts of an observation space are taken for depth."""

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.spaces.utils import flatten_space
from gymnasium.vector.utils import batch_space

from defm_rl import DepthEncoder, normalize_depth
from defm_rl.depth import ScaleWarning
from defm_rl.observations import (
    DepthLayout,
    FeatureBox,
    NormalizingTransform,
    depth_layouts,
    describe_encoder,
    leaves,
    over_cameras,
    refuse_pictures,
    standardized_space,
    to_float16,
    with_leaves,
)
from defm_rl.simulation import SensorTransform


def box(*shape, dtype=np.float32):
    return spaces.Box(0, 100, shape, dtype)


def test_depth_keys_are_found_by_shape_and_dtype():
    space = spaces.Dict(
        front=box(1, 48, 96),
        left=box(48, 96),
        rear=box(48, 96, 1, dtype=np.uint16),
        rgb=box(3, 48, 96, dtype=np.uint8),
        state=box(8),
        matrix=box(3, 4),
        gait=spaces.Discrete(4),
    )
    assert set(depth_layouts(space)) == {"front", "left", "rear"}
    assert set(depth_layouts(space, ["left"])) == {"left"}


def test_stacked_frames_in_a_dict_must_be_named():
    space = spaces.Dict(depth=box(4, 48, 96), state=box(8))
    with pytest.raises(ValueError, match="depth_keys"):
        depth_layouts(space)
    assert depth_layouts(space, ["depth"])["depth"] == DepthLayout(4, 48, 96)


@pytest.mark.parametrize(
    ("space", "keys", "message"),
    [
        (spaces.Dict(state=box(8)), None, "No depth"),
        (spaces.Dict(depth=box(1, 48, 96)), ["dept"], "one or more of depth"),
        (box(8), None, "stacked"),
        (box(1, 48, 96, dtype=np.uint8), None, "uint8"),
        (spaces.Discrete(3), None, "Box or a Dict"),
    ],
)
def test_what_is_no_depth_is_refused(space, keys, message):
    with pytest.raises(ValueError, match=message):
        depth_layouts(space, keys)


@pytest.mark.parametrize("shape", [(4, 20, 30), (20, 30, 4), (4, 1, 20, 30)])
def test_stacked_frames_become_single_images_in_order(shape):
    layout = DepthLayout.of(box(*shape), "depth")
    frame_of_pixel = torch.arange(4).reshape([4 if size == 4 else 1 for size in shape]).expand(shape)
    images = layout.images(torch.stack([frame_of_pixel, frame_of_pixel + 10]))
    assert images.shape == (8, 20, 30)
    assert [int(image.unique().item()) for image in images] == [0, 1, 2, 3, 10, 11, 12, 13]


def test_cameras_of_one_size_share_one_call():
    layouts = depth_layouts(spaces.Dict(a=box(1, 20, 30), b=box(2, 20, 30), c=box(1, 16, 16)), ["a", "b", "c"])
    depth = {"a": torch.full((5, 1, 20, 30), 1.0), "b": torch.full((5, 2, 20, 30), 2.0), "c": torch.zeros(5, 1, 16, 16)}
    sizes = []

    def mean_twice(images):
        sizes.append(tuple(images.shape))
        return images.mean((1, 2))[:, None].expand(-1, 2)

    outputs = over_cameras(layouts, depth, mean_twice)
    assert sizes == [(15, 20, 30), (5, 16, 16)]
    assert {key: tuple(value.shape) for key, value in outputs.items()} == {"a": (5, 2), "b": (5, 4), "c": (5, 2)}
    assert outputs["a"].unique().item() == 1.0
    assert outputs["b"].unique().item() == 2.0


ONE, OTHER = FeatureBox(64, "net sha256=a"), FeatureBox(64, "net sha256=b")


def test_features_of_different_weights_are_different_spaces():
    assert FeatureBox(64, "net sha256=a") == ONE
    assert ONE != OTHER
    assert spaces.Box(-np.inf, np.inf, (64,), np.float16) != ONE
    assert spaces.Dict(depth=ONE) != spaces.Dict(depth=OTHER)
    largest = np.full(64, np.finfo(np.float16).max)
    assert ONE.contains(largest)
    assert ONE.contains(-largest)


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda box: spaces.Box(np.repeat(box.low, 3, -1), np.repeat(box.high, 3, -1), dtype=np.float16),
        lambda box: batch_space(box, 3),
        lambda box: flatten_space(batch_space(box, 3)),
        lambda box: spaces.Box(box.low.astype(np.float32), box.high.astype(np.float32)),
        lambda box: standardized_space(box, 5.0),
        pytest.param(lambda box: pickle.loads(pickle.dumps(box)), id="saved"),
        pytest.param(deepcopy, id="copied"),
    ],
)
def test_origin_survives_what_wrappers_make_of_the_space(wrapped):
    assert wrapped(ONE) == wrapped(FeatureBox(64, "net sha256=a"))
    assert wrapped(ONE) != wrapped(OTHER)
    assert "net sha256=a" in str(pickle.loads(pickle.dumps(wrapped(ONE))))


def test_standardised_features_are_another_space_that_says_so():
    assert standardized_space(ONE, 5.0) != ONE
    assert "standardized" in str(standardized_space(ONE, 5.0))
    assert standardized_space(box(3), 5.0) == spaces.Box(-5.0, 5.0, (3,))
    assert standardized_space(box(3, dtype=np.uint16), 5.0) == box(3, dtype=np.uint16)


def test_spaces_that_were_saved_when_bounds_held_no_origin_are_equal_to_those_of_today():
    class Unbounded(FeatureBox):
        def __init__(self):
            spaces.Box.__init__(self, -np.inf, np.inf, (64,), np.float16)
            self.source = "net sha256=a"

        def __reduce__(self):
            return FeatureBox.__new__, (FeatureBox,), self.__dict__

    saved = pickle.loads(pickle.dumps(Unbounded()))
    assert type(saved) is FeatureBox
    assert saved == ONE
    assert saved != OTHER


@pytest.mark.parametrize(
    "image", [box(3, 16, 24), box(16, 24, 3), box(16, 24, dtype=np.uint16), box(3, 8, 8, dtype=np.uint8)]
)
def test_pictures_that_would_be_flattened_are_refused(image):
    with pytest.raises(ValueError, match="'rgb' is an image"):
        refuse_pictures({"state": box(64), "matrix": box(3, 40), "rgb": image})


BASE = {"encoder": "defm_regnet_y_400mf", "weights": "random", "features": ["P4", "P3"], "image_size": (32, 64)}


@pytest.mark.parametrize(
    "settings",
    [
        {"encoder": "defm_resnet18"},
        {"seed": 1},
        {"features": ["P3", "P4"]},
        {"pool": "mean"},
        {"pool": "columns"},
        {"pool": "spatial_softmax"},
        {"pool": "flatten"},
        {"grid": (4, 2)},
        {"grid": (1, 8)},
        {"bifpn": False},
        {"size": (32, 64)},
        {"unit": "mm"},
        {"unit": 0.0001},
        {"max_depth_m": 5.0},
    ],
    ids=str,
)
@pytest.mark.sweep(5)
def test_every_setting_that_changes_features_is_in_their_description(settings):
    assert describe_encoder(DepthEncoder(**{**BASE, **settings})) != describe_encoder(DepthEncoder(**BASE))


def test_descriptions_of_equal_encoders_are_equal():
    other_camera = {**BASE, "image_size": (48, 96), "cache_dir": "/somewhere/else"}
    assert describe_encoder(DepthEncoder(**other_camera)) == describe_encoder(DepthEncoder(**BASE))


def test_depth_in_nested_dicts_is_found_by_path():
    camera = spaces.Dict(depth=box(48, 64, 1), rgb=box(48, 64, 3, dtype=np.uint8))
    space = spaces.Dict(agent=spaces.Dict(qpos=box(9)), sensor_data=spaces.Dict(base=camera, hand=camera))
    assert set(depth_layouts(space)) == {"sensor_data/base/depth", "sensor_data/hand/depth"}
    assert set(depth_layouts(space, ["sensor_data/hand/depth"])) == {"sensor_data/hand/depth"}
    with pytest.raises(ValueError, match=r"one or more of agent/qpos, sensor_data/base/depth, .*; got \('depth',\)"):
        depth_layouts(space, ["depth"])


def test_signed_integers_are_depth_where_they_are_called_so():
    """ManiSkill gives depth as int16 millimetres, and segmentation in the same shape and dtype."""
    image = box(48, 64, 1, dtype=np.int16)
    assert set(depth_layouts(spaces.Dict(cam=spaces.Dict(depth=image, segmentation=image)))) == {"cam/depth"}


def test_keys_that_are_no_strings_or_hold_slashes_are_found():
    assert set(depth_layouts(spaces.Dict({0: box(48, 64), "a/b": box(48, 64)}))) == {"0", "a/b"}
    assert set(depth_layouts(spaces.Dict({0: box(48, 64), 1: box(48, 64)}), [1])) == {"1"}
    with pytest.raises(ValueError, match="Two parts of the observation have the path 'a/b'"):
        depth_layouts(spaces.Dict({"a/b": box(8), "a": spaces.Dict(b=box(48, 64))}))


def test_parts_are_replaced_in_their_place_and_nothing_else_is_touched():
    tree = {"a": {"b": 1, "c": {"d": 2}}, "e/f": 3}
    assert leaves(tree) == {"a/b": 1, "a/c/d": 2, "e/f": 3}
    assert with_leaves(tree, {"a/c/d": 20, "e/f": 30}) == {"a": {"b": 1, "c": {"d": 20}}, "e/f": 30}
    assert tree == {"a": {"b": 1, "c": {"d": 2}}, "e/f": 3}
    space = spaces.Dict([("z", box(8)), ("a", spaces.Tuple([box(1)]))])
    assert list(with_leaves(space, {"z": box(4)}).spaces) == ["z", "a"]


def test_descriptions_without_a_limit_are_those_of_encoders_that_knew_none():
    assert describe_encoder(DepthEncoder(**BASE)).endswith(" unit=m")
    assert describe_encoder(DepthEncoder(**BASE, unit=0.001)).endswith(" unit=mm")


def images(dtype, cameras=("front", "rear"), shape=(1, 32, 32)):
    return spaces.Dict({camera: spaces.Box(0, 60000, shape, dtype) for camera in cameras})


@pytest.mark.parametrize("dtype", [">u2", ">f4", "f2", "f8"])
def test_depth_of_any_byte_order_and_width_is_found(dtype):
    assert set(depth_layouts(images(np.dtype(dtype)))) == {"front", "rear"}


@pytest.mark.parametrize("dtype", [">u2", "u2", "i4", "u4", ">f4", "f2", "f8"])
def test_every_type_of_depth_goes_through_the_transforms(dtype):
    space = images(np.dtype(dtype))
    depth = np.random.default_rng(0).uniform(0.6, 6.0, (3, 1, 32, 32))
    counts = {key: (depth * 1000).astype(dtype) for key in space}
    metres = counts["front"].astype(np.float32)[:, 0] / 1000
    normalized = NormalizingTransform(space, list(space), unit="mm", dtype=np.float32).reset(counts)
    for key in space:
        np.testing.assert_allclose(normalized[key], normalize_depth(metres).numpy(), atol=1e-3)
    shown = SensorTransform(space, 3, "ideal", list(space), unit="mm").reset(counts)
    np.testing.assert_allclose(shown["rear"], counts["rear"])


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_holes_of_integers_stay_holes_through_trainers_that_make_floats_of_them(dtype):
    layout = DepthLayout.of(spaces.Box(0, 65535, (1, 32, 32), dtype), "depth")
    given = torch.full((1, 1, 32, 32), 1500.0)
    given[..., 0] = float(np.iinfo(np.uint16).max) if dtype == np.float32 else float(np.iinfo(dtype).max)
    first = layout.images(given)[0, 0, 0]
    assert first == (65535.0 if dtype == np.float32 else 0.0)


def test_cameras_of_unlike_types_keep_their_holes():
    space = spaces.Dict(a=spaces.Box(0, 65535, (32, 32), np.uint16), b=spaces.Box(0, 9000, (32, 32), np.float32))
    depth = {"a": np.full((1, 32, 32), 65535, np.uint16), "b": np.full((1, 32, 32), 2000, np.float32)}
    channels = NormalizingTransform(space, None, unit="mm", dtype=np.float32).reset(depth)
    np.testing.assert_allclose(channels["a"], normalize_depth(np.zeros((1, 32, 32), np.float32)), atol=1e-6)
    np.testing.assert_allclose(channels["b"], normalize_depth(np.full((1, 32, 32), 2.0, np.float32)), atol=1e-5)


@pytest.mark.parametrize("scale", [0.001, 0.2, 1000.0])
@pytest.mark.parametrize("make", [NormalizingTransform, lambda space, keys: SensorTransform(space, 16, "ideal", keys)])
def test_each_camera_is_watched_for_itself_and_none_stops_a_training(make, scale):
    transform = make(images(np.float32), ["front", "rear"])
    metres = np.random.default_rng(0).uniform(0.6, 4.0, (16, 1, 32, 32)).astype(np.float32)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(20):
            transform.reset({"front": metres, "rear": metres * np.float32(scale)})
    (said,) = [str(each.message) for each in caught if each.category is ScaleWarning]
    assert "'rear'" in said
    assert ("millimetres" if scale > 1 else "[0, 1]") in said


def test_what_float16_cannot_hold_is_cut_and_not_made_infinite():
    cut = to_float16(torch.tensor([1e6, -1e6, 2.5, float("inf")]))
    assert cut.dtype == torch.float16
    assert cut.tolist() == [65504.0, -65504.0, 2.5, 65504.0]
