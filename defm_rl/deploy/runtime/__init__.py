"""What runs on the robot, on NumPy and ONNX Runtime: an exported policy, its contract, and the frames it takes."""

from defm_rl.deploy.runtime.contract import Action, Contract, DepthInput, Memory, VectorInput
from defm_rl.deploy.runtime.frames import Camera, FrameError
from defm_rl.deploy.runtime.policy import Policy

__all__ = ["Action", "Camera", "Contract", "DepthInput", "FrameError", "Memory", "Policy", "VectorInput"]
