"""Observation terms and events for Isaac Lab's manager-based tasks, and the same for its direct ones."""

import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import Any

from isaaclab.managers import EventTermCfg, ManagerTermBase, ObservationGroupCfg, ObservationTermCfg
from torch import Tensor

from defm_rl.depth import Unit, normalize_channels
from defm_rl.isaaclab.sharing import CameraSettings, Delay, EncoderSettings, SharedDepth
from defm_rl.names import hint

_CAMERA_FIELDS = ("sensor", "data_type", "min_depth_m", "max_depth_m", "unit")


class DefmFeatures(ManagerTermBase):
    """Observation term: DeFM features of a depth camera, (N, feature_dim) float32.

    The encoder is frozen. Terms that name the same weights share one network, and terms that ask for the same features
    share one encoding of each frame, whatever groups they stand in. Parameters are those of `__call__`, and
    are read once, at construction; `defm_features` makes the term's configuration.

    Attributes:
        encoded: The camera with its encoder and the counter of encodings.

    Raises:
        ValueError: At construction, where anything is wrong with the parameters; the message names the key.
    """

    def __init__(self, cfg: ObservationTermCfg, env: Any) -> None:
        super().__init__(cfg, env)
        params, where = _with_defaults(type(self), cfg.params), _where(cfg, env)
        self._delay = _make_delay(params.pop("latency_steps"), env, where)
        self.encoded = SharedDepth.of(env).encode(env, *_settings(params), where)

    def reset(self, env_ids: Sequence[int] | Tensor | slice | None = None) -> None:
        """Begins episodes: their observations reach back no farther."""
        self._delay.reset(env_ids)

    def __call__(
        self,
        env: Any,
        sensor: str = "camera",
        data_type: str = "auto",
        min_depth_m: float = 0.0,
        max_depth_m: float = math.inf,
        unit: Unit = "m",
        latency_steps: int = 0,
        encoder: str = "defm_resnet18",
        weights: str = "hub",
        features: str | Sequence[str] = "global",
        pool: str = "grid",
        grid: Sequence[int] = (2, 4),
        bifpn: bool = True,
        precision: str = "float32",
        compile: str = "auto",  # noqa: A002  as of `DepthEncoder`
        size: int | Sequence[int] | None = None,
        revision: str = "",
        cache_dir: str = "",
        seed: int = 0,
        chunk: int = 1024,
    ) -> Tensor:
        """The features of all environments' images.

        Args:
            env: The environment.
            sensor: The camera's name in the scene.
            data_type: "depth", "distance_to_image_plane", "distance_to_camera", or "auto": what the camera gives.
            min_depth_m: What is nearer counts as not measured.
            max_depth_m: What is farther counts as not measured.
            unit: Of the camera's depth: "m", "mm", or the metres of one count.
            latency_steps: How many of the policy's steps the features are old, within an episode.
            encoder: A published model's name, see `defm_rl.list_encoders()`.
            weights: "hub", the path of a file, or "random".
            features: "global", a map, or several of them.
            pool: See `DepthEncoder`, as all below but `chunk`.
            grid: Rows and columns of the "grid" pool.
            bifpn: Whether maps pass through the BiFPN.
            precision: "float32", "bfloat16" or "float16".
            compile: "auto", "inductor" or "off".
            size: Resizes to this height and width (or square side) first.
            revision: The Hub's revision; empty for its latest.
            cache_dir: The Hub's cache directory; empty for its default.
            seed: Seeds random weights.
            chunk: Images that are encoded at once at the most, which bounds the memory.

        Returns:
            (N, feature_dim) float32.
        """
        return self._delay(self.encoded.features(), _step(env))


class DefmDepth(ManagerTermBase):
    """Observation term: a depth camera's images, for a network of one's own or for a policy that encodes.

    (N, 3, H, W) float32, the three standardised channels that DeFM's networks take; with `normalize=False`
    (N, 1, H, W), metres, 0 where nothing was measured. See `defm_depth` and `depth_image`, which make the term's
    configuration. Parameters are those of `__call__`, and are read once, at construction.

    Attributes:
        camera: The camera.

    Raises:
        ValueError: At construction, where anything is wrong with the parameters; the message names the key.
    """

    def __init__(self, cfg: ObservationTermCfg, env: Any) -> None:
        super().__init__(cfg, env)
        params, where = _with_defaults(type(self), cfg.params), _where(cfg, env)
        self._delay = _make_delay(params["latency_steps"], env, where)
        self._normalize, self._size, self._pad_to = params["normalize"], _pair(params["size"]), params["pad_to"]
        self._channel_axis = params["channel_axis"]
        if not self._normalize and (self._size or self._pad_to > 1):
            raise ValueError(f"{where}: size and pad_to are for normalized channels, not for metres (normalize=False).")
        if self._normalize and not self._channel_axis:
            raise ValueError(f"{where}: channel_axis=False is for metres (normalize=False): there are three channels.")
        settings = CameraSettings(**{name: params[name] for name in _CAMERA_FIELDS})
        self.camera = SharedDepth.of(env).camera(env, settings, where)

    def reset(self, env_ids: Sequence[int] | Tensor | slice | None = None) -> None:
        """Begins episodes: their observations reach back no farther."""
        self._delay.reset(env_ids)

    def __call__(
        self,
        env: Any,
        sensor: str = "camera",
        data_type: str = "auto",
        min_depth_m: float = 0.0,
        max_depth_m: float = math.inf,
        unit: Unit = "m",
        latency_steps: int = 0,
        normalize: bool = True,
        channel_axis: bool = True,
        size: int | Sequence[int] | None = None,
        pad_to: int = 1,
    ) -> Tensor:
        """The images of all environments.

        Args:
            env: The environment.
            sensor: See `DefmFeatures`, as all up to `latency_steps`.
            data_type: Which of the camera's images.
            min_depth_m: What is nearer counts as not measured.
            max_depth_m: What is farther counts as not measured.
            unit: Of the camera's depth: "m", "mm", or the metres of one count.
            latency_steps: How many of the policy's steps the images are old, within an episode.
            normalize: Whether to give the three standardised channels, or metres.
            channel_axis: Whether metres are (N, 1, H, W) or (N, H, W), which Stable-Baselines3 takes for no image.
            size: Resizes the channels to this height and width (or square side).
            pad_to: Pads the channels with zeros on the right and at the bottom to a multiple of this.

        Returns:
            (N, 3, H, W) channels, or (N, 1, H, W) or (N, H, W) metres, float32.
        """
        depth = self._delay(self.camera.read(), _step(env))
        if self._normalize:
            return normalize_channels(depth, self._size, self._pad_to)
        return depth[:, None] if self._channel_axis else depth


def defm_features(sensor: Any = "camera", encoder: str = "defm_resnet18", **settings: Any) -> ObservationTermCfg:
    """One line of an observation group: the features of a depth camera.

    ```python
    features = defm_features("camera", "defm_resnet18", features="P3", pool="columns", history_length=2)
    ```

    Args:
        sensor: The camera's name in the scene, or a `SceneEntityCfg` of it.
        encoder: A published model's name, see `defm_rl.list_encoders()`.
        **settings: Parameters of `DefmFeatures`, and fields of `ObservationTermCfg` such as history_length or noise.

    Raises:
        TypeError: For a setting that there is not.
    """
    return _term_cfg(DefmFeatures, {"sensor": sensor, "encoder": encoder, **settings})


def defm_depth(sensor: Any = "camera", **settings: Any) -> ObservationTermCfg:
    """One line of an observation group: the three standardised channels of a depth camera, for your own network.

    Args:
        sensor: The camera's name in the scene, or a `SceneEntityCfg` of it.
        **settings: Parameters of `DefmDepth`, and fields of `ObservationTermCfg` such as history_length or noise.

    Raises:
        TypeError: For a setting that there is not.
    """
    return _term_cfg(DefmDepth, {"sensor": sensor, **settings})


def depth_image(sensor: Any = "camera", **settings: Any) -> ObservationTermCfg:
    """One line of an observation group: a depth camera's metres, (N, 1, H, W), for a policy that encodes.

    Args:
        sensor: The camera's name in the scene, or a `SceneEntityCfg` of it.
        **settings: See `defm_depth`. For Stable-Baselines3 pass `channel_axis=False`: it refuses float images.
    """
    return defm_depth(sensor, normalize=False, **settings)


def fresh_images_after_reset() -> EventTermCfg:
    """The event that ends the stale image after an automatic reset; it must be the last of the reset events.

    Without it, the observation of a step that resets an environment shows what the camera saw from where the robot was.
    """
    return EventTermCfg(func=refresh_kinematics, mode="reset")


def refresh_kinematics(env: Any, env_ids: Tensor | None) -> None:
    """Moves all bodies, and the cameras on them, to where the reset put them; see `fresh_images_after_reset`."""
    env.scene.write_data_to_sim()
    env.sim.forward()


def add_depth_features(
    cfg: Any,
    camera: Any,
    encoder: str = "defm_resnet18",
    *,
    name: str = "camera",
    group: str = "depth",
    **settings: Any,
) -> None:
    """Adds to an environment's configuration a camera, a group of its features, and the event against stale images.

    ```python
    class MyDepthEnvCfg(MyEnvCfg):
        def __post_init__(self):
            super().__post_init__()
            add_depth_features(self, CameraCfg(...), "defm_resnet18", features="P4", pool="columns")
    ```

    Args:
        cfg: The configuration of a manager-based environment; changed in place.
        camera: The configuration of a camera or a ray-caster camera.
        encoder: A published model's name.
        name: The camera's name in the scene.
        group: The observation group's name.
        **settings: See `defm_features`.
    """
    features = ObservationGroupCfg()
    features.features = defm_features(name, encoder, **settings)
    setattr(cfg.scene, name, camera)
    setattr(cfg.observations, group, features)
    cfg.events.fresh_images = fresh_images_after_reset()
    # Isaac Sim's renderer has to draw again, too: a setting of 3.0 and one of 2.3.
    if hasattr(cfg, "num_rerenders_on_reset"):
        cfg.num_rerenders_on_reset = max(1, cfg.num_rerenders_on_reset)
    elif hasattr(cfg, "rerender_on_reset"):
        cfg.rerender_on_reset = True


def encode_depth(env: Any, sensor: str = "camera", encoder: str = "defm_resnet18", **params: Any) -> Tensor:
    """Features of a depth camera in a direct task, for its `_get_observations`; shared and counted as the term's.

    ```python
    def _get_observations(self):
        return {"policy": torch.cat([self.joint_pos, encode_depth(self, "camera", "defm_resnet18")], dim=-1)}
    ```

    Args:
        env: The environment.
        sensor: The camera's name in `env.scene.sensors`.
        encoder: A published model's name.
        **params: The other parameters of `defm_features`.

    Returns:
        (N, feature_dim) float32.

    Raises:
        TypeError: For a parameter that there is not.
        ValueError: At the first call, where anything is wrong with the parameters.
    """
    params = _with_defaults(DefmFeatures, {**params, "sensor": sensor, "encoder": encoder})
    latency_steps = params.pop("latency_steps")
    shared, settings = SharedDepth.of(env), _settings(params)
    features = shared.encode(env, *settings, "encode_depth").features()
    if latency_steps == 0:
        return features
    key = (*settings, latency_steps)
    if key not in shared.delays:
        shared.delays[key] = _make_delay(latency_steps, env, "encode_depth")
    shared.delays[key].reset(env.episode_length_buf == 0)
    return shared.delays[key](features, _step(env))


def _defaults(term: type[ManagerTermBase]) -> dict[str, Any]:
    """A term's parameters with their defaults."""
    signature = inspect.signature(term.__call__).parameters
    return {name: parameter.default for name, parameter in signature.items() if name not in ("self", "env")}


def _with_defaults(term: type[ManagerTermBase], params: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a term; Isaac Lab 3.0 fills the defaults in itself, 2.3 does not."""
    defaults = _defaults(term)
    for name in params:
        if name not in defaults:
            raise TypeError(f"unknown parameter {name!r}{hint(name, defaults)}")
    return {**defaults, **params}


def _term_cfg(term: type[ManagerTermBase], settings: dict[str, Any]) -> ObservationTermCfg:
    """A term's configuration; plain values only, which Isaac Lab and Hydra write to files and read back.

    No number or name may be None: Isaac Lab lets nothing take the place of None when it reads a configuration.
    """
    defaults, fields = _defaults(term), [field.name for field in dataclasses.fields(ObservationTermCfg)]
    for name in settings:
        if name not in defaults and name not in fields:
            raise TypeError(f"unknown setting {name!r}{hint(name, [*defaults, *fields])}")
    sensor = settings["sensor"]
    settings["sensor"] = getattr(sensor, "name", sensor)
    params = {name: settings.pop(name, default) for name, default in defaults.items()}
    params = {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
    return ObservationTermCfg(func=term, params=params, **settings)


def _settings(params: dict[str, Any]) -> tuple[CameraSettings, EncoderSettings]:
    """The settings as values that can be compared: configurations hold lists where tuples are meant."""
    camera = CameraSettings(**{name: params[name] for name in _CAMERA_FIELDS})
    rest = {name: value for name, value in params.items() if name not in _CAMERA_FIELDS}
    features = rest["features"]
    rest["features"] = (features,) if isinstance(features, str) else tuple(features)
    return camera, EncoderSettings(**{**rest, "grid": tuple(rest["grid"]), "size": _pair(rest["size"])})


def _make_delay(steps: int, env: Any, where: str) -> Delay:
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"{where}.latency_steps: must be a whole number of steps from 0 on, got {steps!r}.")
    return Delay(steps, env.num_envs, env.device)


def _where(cfg: ObservationTermCfg, env: Any) -> str:
    """The configuration key of a term's parameters."""
    groups = getattr(getattr(env, "cfg", None), "observations", None)
    for group_name, group in (vars(groups) if groups is not None else {}).items():
        for term_name, term in getattr(group, "__dict__", {}).items():
            if term is cfg:
                return f"observations.{group_name}.{term_name}.params"
    return "params"


def _step(env: Any) -> int:
    """A number that goes up with every step of the policy."""
    return int(
        getattr(env, "common_step_counter", env._sim_step_counter)
    )  # only environments with rewards have the first


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
