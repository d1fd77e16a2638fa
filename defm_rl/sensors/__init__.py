"""Simulated depth cameras: named noise profiles, latency, frame rate and mounting."""

from defm_rl.sensors.camera import MOUNTINGS, MountingJitter, SimulatedCamera, check_depth, simulate
from defm_rl.sensors.fitting import Figures, Fit, fit_sensor
from defm_rl.sensors.noise import Noise
from defm_rl.sensors.profiles import (
    EFFECTS,
    SENSORS,
    Dextrah,
    Ideal,
    KinectNguyen,
    RealSenseParkour,
    Redwood,
    Sensor,
    Stereo,
    ZedX,
    compose,
    list_sensors,
    make_sensor,
    register_sensor,
    taken_apart,
)

__all__ = [
    "EFFECTS",
    "MOUNTINGS",
    "SENSORS",
    "Dextrah",
    "Figures",
    "Fit",
    "Ideal",
    "KinectNguyen",
    "MountingJitter",
    "Noise",
    "RealSenseParkour",
    "Redwood",
    "Sensor",
    "SimulatedCamera",
    "Stereo",
    "ZedX",
    "check_depth",
    "compose",
    "fit_sensor",
    "list_sensors",
    "make_sensor",
    "register_sensor",
    "simulate",
    "taken_apart",
]
