"""A ROS 2 node: depth images and camera info in, velocity commands out.

    ros2 run your_package ros2_node --ros-args -p policy:=/path/policy.onnx

Subscribes to `depth/image_rect_raw` (sensor_msgs/Image, 16UC1 millimetres or 32FC1 metres) and `depth/camera_info`,
publishes `cmd_vel` (geometry_msgs/Twist) at the rate of the training, and `faults` (std_msgs/String). Needs rclpy,
NumPy and ONNX Runtime. `state` has to be filled in for a robot, in the order of the contract's `entries`.
"""

import time
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import Twist
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from defm_rl.deploy import Camera, Policy

# What an image's encoding says of a pixel: NumPy's type, and the policy's unit.
ENCODINGS = {"16UC1": (np.uint16, "mm"), "mono16": (np.uint16, "mm"), "32FC1": (np.float32, "m")}


class PolicyNode(Node):
    """Acts on the newest frame; stands still where anything is wrong."""

    def __init__(self) -> None:
        super().__init__("defm_policy")
        self._path = self.declare_parameter("policy", "policy.onnx").value
        self._policy: Policy | None = None
        self._camera: Camera | None = None
        self._frame: tuple[Any, float] | None = None
        self._commands = self.create_publisher(Twist, "cmd_vel", 1)
        self._faults = self.create_publisher(String, "faults", 10)
        self.create_subscription(CameraInfo, "depth/camera_info", self._on_info, qos_profile_sensor_data)
        self.create_subscription(Image, "depth/image_rect_raw", self._on_image, qos_profile_sensor_data)
        step_s = Policy(self._path).contract.step_s or 0.1
        self.create_timer(step_s, self._step)  # a policy with a memory must run at the rate of its training

    def _on_info(self, info: CameraInfo) -> None:
        self._camera = Camera(info.height, info.width, info.k[0], info.k[4], info.k[2], info.k[5])

    def _on_image(self, image: Image) -> None:
        if image.encoding not in ENCODINGS:
            self._stop(f"depth comes as {image.encoding!r}; expected {', '.join(ENCODINGS)}")
            return
        kind, unit = ENCODINGS[image.encoding]
        order = ">" if image.is_bigendian else "<"
        rows = np.frombuffer(image.data, np.dtype(kind).newbyteorder(order)).reshape(image.height, -1)
        if self._policy is None and self._camera is not None:
            self._policy = Policy(self._path, camera=self._camera, depth_unit=unit)
        self._frame = rows[:, : image.width], self._taken_s(image)

    def _taken_s(self, image: Image) -> float:
        """When it was taken, by `time.monotonic()`: ROS stamps are of another clock."""
        stamp = image.header.stamp
        age_s = self.get_clock().now().nanoseconds * 1e-9 - (stamp.sec + stamp.nanosec * 1e-9)
        return time.monotonic() - age_s

    def _step(self) -> None:
        if self._policy is None or self._frame is None:
            self._stop("no depth image and camera info yet")
            return
        depth, taken_s = self._frame
        try:
            action = self._policy.act(depth=depth, state=self._state(), stamp_s=taken_s)
        except ValueError as error:
            self._stop(str(error))
            return
        forward, turn = self._policy.command(action)
        command = Twist()
        command.linear.x, command.angular.z = float(forward), float(turn)
        self._commands.publish(command)

    def _state(self) -> Any:
        (wanted,) = self._policy.contract.vectors  # type: ignore[union-attr]
        return np.zeros(wanted.shape, np.float32)  # wanted.entries says what belongs where

    def _stop(self, reason: str) -> None:
        self._commands.publish(Twist())
        self._faults.publish(String(data=reason))


def main() -> None:
    """Spins until it is stopped."""
    rclpy.init()
    node = PolicyNode()
    try:
        rclpy.spin(node)
    finally:
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
