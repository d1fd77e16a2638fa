"""What the observation terms of one environment share: networks, and each camera's features of the current frame."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor

from defm_rl.depth import Unit
from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.base import Encoder
from defm_rl.encoders.registry import is_known, published_name
from defm_rl.terms.cameras import Ids, SceneCamera, SensedCamera, marked


@dataclass(frozen=True)
class CameraSettings:
    """Which depth to read, see `SceneCamera`, and which sensor measures it, see `SensedCamera`."""

    sensor: str
    data_type: str
    min_depth_m: float
    max_depth_m: float
    unit: Unit
    sensor_model: str
    sensor_seed: int


@dataclass(frozen=True)
class EncoderSettings:
    """Which features to compute, see `DepthEncoder`; `chunk` images at once at the most."""

    encoder: str
    weights: str
    features: tuple[str, ...]
    pool: str
    grid: tuple[int, int]
    bifpn: bool
    precision: str
    compile: str
    size: tuple[int, int] | None
    revision: str
    cache_dir: str
    seed: int
    chunk: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "encoder", published_name(self.encoder))

    @property
    def network(self) -> tuple[str, ...]:
        """What decides the weights."""
        return self.encoder, self.weights, self.revision, self.cache_dir, str(self.seed)


class EncodedCamera:
    """The features of one camera's images, each image encoded once however often they are asked for.

    An image is encoded when it differs from the one before. So all terms of a step share one encoding, a camera that is
    slower than the policy is not encoded again, and a partial reset encodes only the environments that were reset.

    Args:
        camera: The camera, as its sensor measures.
        encoder: A frozen encoder.
        chunk: Images that are encoded at once at the most.

    Attributes:
        camera: The camera.
        encoder: The encoder.
        encodings: How many times the encoder has run.
        images_encoded: How many images it has encoded.
    """

    def __init__(self, camera: SensedCamera, encoder: DepthEncoder, chunk: int) -> None:
        self.camera, self.encoder = camera, encoder
        self.encodings = self.images_encoded = 0
        self._chunk = chunk
        encoder.checks_scale = False  # the camera watches itself
        self._depth: Tensor | None = None
        self._features = torch.empty(0)

    def features(self, step: int) -> Tensor:
        """The features of the images that are seen in a step: (N, feature_dim) float32."""
        with torch.inference_mode():
            depth = self.camera.read(step)
            if self._depth is None:
                self._features = self._encode(depth)
            else:
                changed = changed_images(depth, self._depth)
                count = int(changed.sum())
                if count == len(depth):
                    self._features = self._encode(depth)
                elif count:
                    rows = changed.nonzero()[:, 0]
                    self._features[rows] = self._encode(depth[rows])
            self._depth = depth
        return self._features.clone()  # outside inference mode an ordinary tensor, which training can use

    def _encode(self, depth: Tensor) -> Tensor:
        self.encodings += 1
        self.images_encoded += len(depth)
        return self.encoder.encode(depth, chunk=self._chunk)


def changed_images(images: Tensor, before: Tensor) -> Tensor:
    """Which of (N, H, W) images differ, (N,)."""
    # Nearly always they all do, which every eighth pixel shows; small operations are done before threads have begun.
    changed = (images[:, ::8, ::8] != before[:, ::8, ::8]).flatten(1).any(1)
    return changed if bool(changed.all()) else (images != before).flatten(1).any(1)


class Delay:
    """What was observed some steps ago, in each environment within its own episode.

    Reading again within one step does not move time on. The first observations of an episode are its very first.

    Args:
        steps: How many steps.
        num_envs: Number of environments.
        device: The device of the observations.
    """

    def __init__(self, steps: int, num_envs: int, device: str | torch.device = "cpu") -> None:
        self._length = steps + 1
        self._newest = 0
        self._step: int | None = None
        self._buffer = torch.empty(0)
        self._begins = torch.ones(num_envs, dtype=torch.bool, device=device)

    def reset(self, env_ids: Ids = None) -> None:
        """Begins episodes; None for all environments."""
        self._begins = marked(self._begins, env_ids)

    def __call__(self, observed: Tensor, step: int) -> Tensor:
        """Observes (N, ...) at a step, and gives what was observed then."""
        if self._length == 1:
            return observed
        with torch.inference_mode():
            if self._step is None:
                self._buffer = observed.expand(self._length, *observed.shape).clone()
            self._newest = (self._newest + (step != self._step)) % self._length
            self._step = step
            self._buffer[self._newest] = observed
            self._buffer[:, self._begins] = observed[self._begins]
            self._begins = torch.zeros_like(self._begins)
            delayed = self._buffer[(self._newest + 1) % self._length]
        return delayed.clone()


class SharedDepth:
    """What the observation terms of one environment share.

    Attributes:
        encoded: Every camera with features, by its settings.
        delays: Those of features that are asked for without a term.
        places: The configuration keys of terms, as they have been found.
        episodes: Gives the numbers of the episodes under way, which simulated sensors follow, see `SensedCamera`. It
            must not hold the environment.
    """

    def __init__(self) -> None:
        self.encoded: dict[tuple[CameraSettings, EncoderSettings], EncodedCamera] = {}
        self.delays: dict[Any, Delay] = {}
        self.places: set[str] = set()
        self.episodes: Callable[[], Tensor] | None = None
        self._cameras: dict[CameraSettings, SensedCamera] = {}
        self._networks: dict[str, tuple[str, ...]] = {}

    @classmethod
    def of(cls, env: Any) -> "SharedDepth":
        """The one of an environment."""
        return _shared.setdefault(env, cls())

    def camera(self, env: Any, kind: type[SceneCamera], settings: CameraSettings, where: str) -> SensedCamera:
        """A camera of the environment, the same object for all who ask the same.

        Raises:
            ValueError: Where the camera gives no depth, or there is no such sensor model.
        """
        if settings not in self._cameras:
            values = dataclasses.asdict(settings)
            sensor, seed = values.pop("sensor_model"), values.pop("sensor_seed")
            camera = kind(env.scene.sensors, values.pop("sensor"), **values, where=where)
            try:
                self._cameras[settings] = SensedCamera(
                    camera,
                    sensor,
                    env.num_envs,
                    step_s=env.step_dt,
                    seed=seed,
                    device=env.device,
                    episodes=lambda: None if self.episodes is None else self.episodes(),
                )
            except ValueError as error:
                raise ValueError(f"{where}.sensor_model: {error}.") from error
        return self._cameras[settings]

    def encode(
        self,
        env: Any,
        kind: type[SceneCamera],
        camera: CameraSettings,
        encoder: EncoderSettings,
        where: str = "params",
    ) -> EncodedCamera:
        """The features of a camera of the environment, the same object for all who ask the same.

        Raises:
            ValueError: See `camera`; or where the encoder's settings make no sense, or another term of this environment
                has an encoder of this name with other weights.
        """
        key = camera, encoder
        if key not in self.encoded:
            sensed = self.camera(env, kind, camera, where)
            self._check_weights(encoder, where)
            try:
                made = _make_encoder(encoder, sensed.image_size, torch.device(env.device))
            except (ValueError, TypeError) as error:
                key_of_error = where if is_known(encoder.encoder) else f"{where}.encoder"
                raise ValueError(f"{key_of_error}: {error}") from error
            self.encoded[key] = EncodedCamera(sensed, made, encoder.chunk)
        return self.encoded[key]

    def _check_weights(self, encoder: EncoderSettings, where: str) -> None:
        before = self._networks.setdefault(encoder.encoder, encoder.network)
        names = ("encoder", "weights", "revision", "cache_dir", "seed")
        for name, asked, there in zip(names, encoder.network, before, strict=True):
            if asked != there:
                raise ValueError(
                    f"{where}.{name}: {asked!r}, but another term of this environment has {encoder.encoder!r} with "
                    f"{name} {there!r}: give both the same weights, or use encoders of different names."
                )


_shared: WeakKeyDictionary[Any, SharedDepth] = WeakKeyDictionary()

_networks: WeakValueDictionary[tuple[str, ...], Encoder] = WeakValueDictionary()
"""The networks of this process by weights and device; each lives as long as an environment uses it."""


def _make_encoder(settings: EncoderSettings, image_size: tuple[int, int], device: torch.device) -> DepthEncoder:
    """A frozen encoder on a device, with the network that is there already where there is one."""
    key = (*settings.network, str(device))
    encoder = DepthEncoder(
        settings.encoder,
        weights=settings.weights,
        features=settings.features,
        pool=settings.pool,
        grid=settings.grid,
        bifpn=settings.bifpn,
        precision=settings.precision,
        compile=settings.compile,
        image_size=image_size,
        size=settings.size,
        revision=settings.revision or None,
        cache_dir=settings.cache_dir or None,
        seed=settings.seed,
        network=_networks.get(key),
    ).to(device)
    if not encoder.frozen:
        raise ValueError(f"pool {settings.pool!r} is learned with the policy, and cannot stand in an observation term")
    _networks[key] = encoder.net
    return encoder
