"""Observation terms of a depth camera, as any simulator's manager calls them, and their configurations."""

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from defm_rl.depth import Unit, normalize_channels
from defm_rl.names import hint
from defm_rl.terms.cameras import Ids, SceneCamera
from defm_rl.terms.sharing import CameraSettings, Delay, EncoderSettings, SharedDepth

TermCfg = TypeVar("TermCfg")

_CAMERA_FIELDS = tuple(field.name for field in dataclasses.fields(CameraSettings))


class _Term:
    def _shown(self, env: Any, observation: Tensor) -> Tensor:
        """What the manager gets: for simulators that record where their policies' inputs come from."""
        return observation


class FeaturesTerm(_Term):
    """Observation term: DeFM features of a depth camera, (N, feature_dim) float32.

    The encoder is frozen. Terms that name the same weights share one network, and terms that ask for the same features
    share one encoding of each frame, whatever groups they stand in. Parameters are those of `__call__`, and
    are read once, at construction; `defm_features` makes the term's configuration.

    Args:
        params: The parameters.
        env: The environment.
        where: The configuration key of the parameters, for errors.

    Attributes:
        encoded: The camera with its encoder and the counter of encodings.

    Raises:
        ValueError: At construction, where anything is wrong with the parameters; the message names the key.
    """

    camera_class: ClassVar[type[SceneCamera]]

    def __init__(self, params: dict[str, Any], env: Any, where: str) -> None:
        params = with_defaults(FeaturesTerm, params)
        self._delay = make_delay(params.pop("latency_steps"), env, where)
        self.encoded = SharedDepth.of(env).encode(env, self.camera_class, *settings_of(params), where)

    def reset(self, env_ids: Ids = None) -> None:
        """Begins episodes: their observations reach back no farther."""
        self.encoded.camera.reset(env_ids)
        self._delay.reset(env_ids)

    def __call__(
        self,
        env: Any,
        sensor: str = "camera",
        data_type: str = "auto",
        min_depth_m: float = 0.0,
        max_depth_m: float = math.inf,
        unit: Unit = "m",
        sensor_model: str = "ideal",
        sensor_seed: int = 0,
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
            data_type: Which of the camera's images is depth; "auto" for what it gives. mjlab's cameras have "depth",
                Isaac Lab's also "distance_to_image_plane" and "distance_to_camera".
            min_depth_m: What is nearer counts as not measured.
            max_depth_m: What is farther counts as not measured.
            unit: Of the camera's depth: "m", "mm", or the metres of one count.
            sensor_model: The depth camera that is simulated on what the renderer drew, see `defm_rl.sensors.SENSORS`,
                with its latency and frame rate in seconds; "ideal" for the renderer's own depth.
            sensor_seed: Of the sensor's random numbers.
            latency_steps: How many of the policy's steps the features are old, within an episode; in addition to the
                sensor's latency.
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
        step = step_of(env)
        return self._shown(env, self._delay(self.encoded.features(step), step))


class DepthTerm(_Term):
    """Observation term: a depth camera's images, for a network of one's own or for a policy that encodes.

    (N, 3, H, W) float32, the three standardised channels that DeFM's networks take; with `normalize=False`
    (N, 1, H, W), metres, 0 where nothing was measured. See `defm_depth` and `depth_image`, which make the term's
    configuration. Parameters are those of `__call__`, and are read once, at construction.

    Args:
        params: The parameters.
        env: The environment.
        where: The configuration key of the parameters, for errors.

    Attributes:
        camera: The camera, as its sensor measures.

    Raises:
        ValueError: At construction, where anything is wrong with the parameters; the message names the key.
    """

    camera_class: ClassVar[type[SceneCamera]]

    def __init__(self, params: dict[str, Any], env: Any, where: str) -> None:
        params = with_defaults(DepthTerm, params)
        self._delay = make_delay(params["latency_steps"], env, where)
        self._normalize, self._size, self._pad_to = params["normalize"], _pair(params["size"]), params["pad_to"]
        self._channel_axis = params["channel_axis"]
        if not self._normalize and (self._size or self._pad_to > 1):
            raise ValueError(f"{where}: size and pad_to are for normalized channels, not for metres (normalize=False).")
        if self._normalize and not self._channel_axis:
            raise ValueError(f"{where}: channel_axis=False is for metres (normalize=False): there are three channels.")
        settings = CameraSettings(**{name: params[name] for name in _CAMERA_FIELDS})
        self.camera = SharedDepth.of(env).camera(env, self.camera_class, settings, where)

    def reset(self, env_ids: Ids = None) -> None:
        """Begins episodes: their observations reach back no farther."""
        self.camera.reset(env_ids)
        self._delay.reset(env_ids)

    def __call__(
        self,
        env: Any,
        sensor: str = "camera",
        data_type: str = "auto",
        min_depth_m: float = 0.0,
        max_depth_m: float = math.inf,
        unit: Unit = "m",
        sensor_model: str = "ideal",
        sensor_seed: int = 0,
        latency_steps: int = 0,
        normalize: bool = True,
        channel_axis: bool = True,
        size: int | Sequence[int] | None = None,
        pad_to: int = 1,
    ) -> Tensor:
        """The images of all environments.

        Args:
            env: The environment.
            sensor: See `FeaturesTerm`, as all up to `latency_steps`.
            data_type: Which of the camera's images.
            min_depth_m: What is nearer counts as not measured.
            max_depth_m: What is farther counts as not measured.
            unit: Of the camera's depth.
            sensor_model: The depth camera that is simulated.
            sensor_seed: Of its random numbers.
            latency_steps: How many of the policy's steps the images are old, within an episode.
            normalize: Whether to give the three standardised channels, or metres.
            channel_axis: Whether metres are (N, 1, H, W) or (N, H, W), which Stable-Baselines3 takes for no image.
            size: Resizes the channels to this height and width (or square side).
            pad_to: Pads the channels with zeros on the right and at the bottom to a multiple of this.

        Returns:
            (N, 3, H, W) channels, or (N, 1, H, W) or (N, H, W) metres, float32.
        """
        step = step_of(env)
        depth = self._delay(self.camera.read(step), step)
        if self._normalize:
            return self._shown(env, normalize_channels(depth, self._size, self._pad_to))
        return self._shown(env, depth[:, None] if self._channel_axis else depth)


class TermConfigs(Generic[TermCfg]):
    """One line of an observation group each, in a simulator's own configuration class.

    Args:
        features: The simulator's `FeaturesTerm`.
        depth: Its `DepthTerm`.
        make: Its `ObservationTermCfg`, a dataclass that takes `func`, `params` and fields of its own.
    """

    def __init__(self, features: type[FeaturesTerm], depth: type[DepthTerm], make: Callable[..., TermCfg]) -> None:
        self._features, self._depth, self._make = features, depth, make

    def defm_features(self, sensor: Any = "camera", encoder: str = "defm_resnet18", **settings: Any) -> TermCfg:
        """One line of an observation group: the features of a depth camera.

        ```python
        features = defm_features("camera", "defm_resnet18", features="P3", pool="columns", history_length=2)
        ```

        Args:
            sensor: The camera's name in the scene, or a `SceneEntityCfg` of it.
            encoder: A published model's name, see `defm_rl.list_encoders()`.
            **settings: Parameters of `FeaturesTerm`, and fields of `ObservationTermCfg` such as history_length.

        Raises:
            TypeError: For a setting that there is not.
        """
        return self._term_cfg(self._features, {"sensor": sensor, "encoder": encoder, **settings})

    def defm_depth(self, sensor: Any = "camera", **settings: Any) -> TermCfg:
        """One line of an observation group: the three standardised channels of a depth camera, for your own network.

        Args:
            sensor: The camera's name in the scene, or a `SceneEntityCfg` of it.
            **settings: Parameters of `DepthTerm`, and fields of `ObservationTermCfg` such as history_length or noise.

        Raises:
            TypeError: For a setting that there is not.
        """
        return self._term_cfg(self._depth, {"sensor": sensor, **settings})

    def depth_image(self, sensor: Any = "camera", **settings: Any) -> TermCfg:
        """One line of an observation group: a depth camera's metres, (N, 1, H, W), for a policy that encodes.

        Args:
            sensor: The camera's name in the scene, or a `SceneEntityCfg` of it.
            **settings: See `defm_depth`. For Stable-Baselines3 pass `channel_axis=False`: it refuses float images.
        """
        return self.defm_depth(sensor, normalize=False, **settings)

    def _term_cfg(self, term: type[FeaturesTerm] | type[DepthTerm], settings: dict[str, Any]) -> TermCfg:
        """A term's configuration; plain values only, which Isaac Lab and Hydra write to files and read back.

        No number or name may be None: Isaac Lab lets nothing take the place of None when it reads a configuration.
        """
        defaults, fields = _defaults(term), [field.name for field in dataclasses.fields(self._make)]  # type: ignore[arg-type]
        for name in settings:
            if name not in defaults and name not in fields:
                raise TypeError(f"unknown setting {name!r}{hint(name, [*defaults, *fields])}")
        sensor = settings["sensor"]
        settings["sensor"] = getattr(sensor, "name", sensor)
        params = {name: settings.pop(name, default) for name, default in defaults.items()}
        params = {name: list(value) if isinstance(value, tuple) else value for name, value in params.items()}
        return self._make(func=term, params=params, **settings)


def with_defaults(term: type, params: dict[str, Any]) -> dict[str, Any]:
    """All parameters of a term; Isaac Lab 3.0 fills the defaults in itself, others do not."""
    defaults = _defaults(term)
    for name in params:
        if name not in defaults:
            raise TypeError(f"unknown parameter {name!r}{hint(name, defaults)}")
    return {**defaults, **params}


def settings_of(params: dict[str, Any]) -> tuple[CameraSettings, EncoderSettings]:
    """A `FeaturesTerm`'s parameters as values to compare: configurations hold lists where tuples are meant."""
    camera = CameraSettings(**{name: params[name] for name in _CAMERA_FIELDS})
    rest = {name: value for name, value in params.items() if name not in _CAMERA_FIELDS}
    features = rest["features"]
    rest["features"] = (features,) if isinstance(features, str) else tuple(features)
    return camera, EncoderSettings(**{**rest, "grid": tuple(rest["grid"]), "size": _pair(rest["size"])})


def make_delay(steps: int, env: Any, where: str) -> Delay:
    """A delay of a term of this environment."""
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise ValueError(f"{where}.latency_steps: must be a whole number of steps from 0 on, got {steps!r}.")
    return Delay(steps, env.num_envs, env.device)


def step_of(env: Any) -> int:
    """A number that goes up with every step of the policy."""
    return int(
        getattr(env, "common_step_counter", env._sim_step_counter)
    )  # only environments with rewards have the first


def _defaults(term: type) -> dict[str, Any]:
    """A term's parameters with their defaults."""
    signature = inspect.signature(term.__call__).parameters
    return {name: parameter.default for name, parameter in signature.items() if name not in ("self", "env")}


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
