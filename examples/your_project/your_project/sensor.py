"""A camera that sees up to three metres, known to defm-rl as `your_camera`."""

from defm_rl.sensors import make_sensor, register_sensor

register_sensor("your_camera", make_sensor("stereo", max_depth_m=3.0))
