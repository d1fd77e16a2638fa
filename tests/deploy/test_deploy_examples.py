"""The examples run: a plain loop on a camera that is made up, on recorded frames, and on a RealSense's interface."""

import importlib
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tiny

EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "deploy"


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    yield types.SimpleNamespace(loop=importlib.import_module("loop"), sources=importlib.import_module("sources"))
    for name in ("loop", "sources"):
        sys.modules.pop(name, None)


class Pyrealsense:
    """pyrealsense2 as far as the source uses it: a wall 2 m away, in counts of a tenth of a millimetre."""

    stream = types.SimpleNamespace(depth="depth")
    format = types.SimpleNamespace(z16="z16")
    lens = types.SimpleNamespace(height=48, width=72, fx=30.0, fy=30.0, ppx=35.5, ppy=23.5)

    def pipeline(self):
        return self

    def config(self):
        return types.SimpleNamespace(enable_stream=lambda *asked: setattr(self, "asked", asked))

    def start(self, config):
        return self

    get_device = first_depth_sensor = as_video_stream_profile = get_depth_frame = lambda self: self

    def get_stream(self, stream):
        return self

    def get_intrinsics(self):
        return self.lens

    def get_depth_scale(self):
        return 0.0001

    def wait_for_frames(self):
        self.frames = getattr(self, "frames", 0) + 1
        return self

    def get_data(self):
        return np.full((48, 72), 20000 + self.frames, np.uint16)


@pytest.mark.parametrize("kind", ["made up", "recorded", "realsense"])
def test_a_plain_loop_runs_at_the_rate_of_the_training(examples, kind, tmp_path):
    path = tiny.write(tmp_path / "policy.onnx", step_s=0.02)
    frames = np.random.default_rng(0).uniform(1, 3, (8, tiny.HEIGHT, tiny.WIDTH)).astype(np.float32)
    source = {
        "made up": lambda: examples.sources.MadeUp(tiny.HEIGHT, tiny.WIDTH),
        "recorded": lambda: examples.sources.Recorded(frames),
        "realsense": lambda: examples.sources.RealSense(library=Pyrealsense()),
    }[kind]()
    policy = examples.loop.drive(str(path), source, steps=5)
    assert policy.latency.steps == 5
    if kind == "realsense":
        assert policy.record.newest["depth"] == pytest.approx(2.0, abs=0.01)


def test_what_went_wrong_is_written_out(examples, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tiny.write(tmp_path / "policy.onnx", step_s=0.02)
    frames = np.ones((3, tiny.HEIGHT, tiny.WIDTH), np.float32)
    frames[0], frames[2] = 2.0, 0.0
    with pytest.raises(ValueError, match="covered"):
        examples.loop.drive(str(path), examples.sources.Recorded(frames), steps=5)
    assert np.load("record.npz")["action"].shape == (2, 1, 2)


class Ros:
    """As much of rclpy and its messages as the node uses."""

    def __init__(self, path):
        self.published = {}
        published = self.published

        class Node:
            def __init__(self, name):
                pass

            def declare_parameter(self, name, default):
                return types.SimpleNamespace(value=str(path))

            def create_publisher(self, kind, topic, depth):
                return types.SimpleNamespace(publish=lambda message: published.setdefault(topic, []).append(message))

            def create_subscription(self, *arguments):
                pass

            def create_timer(self, period_s, step):
                published["period_s"] = period_s

            def get_clock(self):
                return types.SimpleNamespace(now=lambda: types.SimpleNamespace(nanoseconds=5_000_000_000))

        def twist():
            return types.SimpleNamespace(linear=types.SimpleNamespace(x=0.0), angular=types.SimpleNamespace(z=0.0))

        self.modules = {
            "rclpy": types.SimpleNamespace(),
            "rclpy.node": types.SimpleNamespace(Node=Node),
            "rclpy.qos": types.SimpleNamespace(qos_profile_sensor_data=None),
            "geometry_msgs.msg": types.SimpleNamespace(Twist=twist),
            "sensor_msgs.msg": types.SimpleNamespace(CameraInfo=object, Image=object),
            "std_msgs.msg": types.SimpleNamespace(String=types.SimpleNamespace),
        }


def test_a_ros_node_commands_in_physical_units_and_stands_still_where_something_is_wrong(tmp_path, monkeypatch):
    ros = Ros(tiny.write(tmp_path / "policy.onnx"))
    for name, module in ros.modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.syspath_prepend(EXAMPLES)
    node = importlib.import_module("ros2_node").PolicyNode()
    sys.modules.pop("ros2_node")
    assert ros.published["period_s"] == 0.1
    node._step()
    assert "no depth image" in ros.published["faults"][-1].data
    lens = tiny.CAMERA
    node._on_info(
        types.SimpleNamespace(
            height=lens.height, width=lens.width, k=[lens.fx, 0, lens.cx, 0, lens.fy, lens.cy, 0, 0, 1]
        )
    )
    image = types.SimpleNamespace(
        encoding="16UC1",
        is_bigendian=0,
        height=lens.height,
        width=lens.width,
        data=np.full((lens.height, lens.width), 2000, "<u2").tobytes(),
        header=types.SimpleNamespace(stamp=types.SimpleNamespace(sec=4, nanosec=950_000_000)),
    )
    node._on_image(image)
    node._step()
    assert ros.published["cmd_vel"][-1].linear.x == pytest.approx(1.0 + 2.0 * 2.0)  # what the tiny policy commands
    image.header.stamp.sec = 1
    node._on_image(image)
    node._step()
    assert ros.published["cmd_vel"][-1].linear.x == 0.0
    assert "s old" in ros.published["faults"][-1].data
    image.encoding = "8UC1"
    node._on_image(image)
    assert "expected 16UC1" in ros.published["faults"][-1].data
