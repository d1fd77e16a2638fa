"""What every task can be asked, whatever simulator it runs on."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from defm_rl.checking import EnvReport, check_env
from defm_rl.depth import DepthFormat, ZBuffer
from defm_rl.encoders import DepthEncoder
from defm_rl.envs.core import Command
from defm_rl.envs.layouts import Layout
from defm_rl.experiments.config import Config, ConfigError, EncoderConfig, EnvConfig
from defm_rl.experiments.environments import camera_keys, encode_once
from defm_rl.sensors import make_sensor

Env = TypeVar("Env", bound=EnvConfig)

IDEAL = "ideal"
"""The sensor that measures nothing but the truth."""


class Ability(Enum):
    """What some tasks cannot do."""

    SENSORS = "simulated sensors"
    FRAMES = "depth frames of chosen layouts"
    FILMS = "films"
    EXPORT = "exported runs, whose contract says what stands where in its state"


@dataclass(frozen=True)
class DepthCamera:
    """A depth observation.

    Attributes:
        height: Pixels.
        width: Pixels.
        horizontal_fov_deg: Field of view in degrees; None where it is not known.
        depth_format: Unit and limit of what the simulator gives, before it becomes metres.
        z_buffer: The planes, where that is a z-buffer.
    """

    height: int
    width: int
    horizontal_fov_deg: float | None = None
    depth_format: DepthFormat = field(default_factory=DepthFormat)
    z_buffer: ZBuffer | None = None


class Map(Protocol):
    """Where robots are, seen from above."""

    @property
    def poses(self) -> NDArray[Any]:
        """(num_envs, 3): x and y in metres, yaw in radians."""

    def layout(self, index: int) -> Layout:
        """The world of one environment."""


class Task(ABC, Generic[Env]):
    """The environments that a configuration names.

    Its environments have same-step autoreset and a Dict of observations: depth as (1, H, W) metres, vectors as (k,).
    Of each episode that ends, `infos["final_info"]` holds `layout_seed` (its number), `failure` ("" where there is
    none, else its name) and, where the task knows of success, `success`; whatever other numbers stand there are the
    task's measures.

    Args:
        config: The configuration.
    """

    lacks: Mapping[Ability, str] = {}
    """What the task cannot do, with what to do instead."""

    def __init__(self, config: Env) -> None:
        self.config = config

    @property
    def name(self) -> str:
        """For people; policies of tasks with different names are not compared."""
        return self.config.id.rpartition("/")[2]

    @property
    def sensor(self) -> str:
        """The depth camera that policies see with."""
        return IDEAL

    @property
    def renderer(self) -> str:
        """What draws depth; "auto" where there is no choice."""
        return "auto"

    @property
    @abstractmethod
    def step_s(self) -> float | None:
        """Seconds between two actions; None where they are not known."""

    @property
    @abstractmethod
    def cameras(self) -> Mapping[str, DepthCamera]:
        """The depth observations by key.

        Raises:
            ConfigError: Where the environment, which may have to be asked, cannot be made.
        """

    @property
    def vectors(self) -> tuple[str, ...]:
        """The vectors that the environments themselves have to give, beside those for critics and teachers."""
        return ("state",)

    @property
    def entries(self) -> Mapping[str, Sequence[str]]:
        """What stands in which place of the vectors, by their keys, where the task says so."""
        return {}

    @property
    def commands(self) -> Sequence[Command]:
        """What each entry of an action commands, where the task says so."""
        return ()

    @property
    def depth_can_be_left_out(self) -> bool:
        """Whether environments of which no depth is asked draw none."""
        return True

    def depth_size(self, encoder: EncoderConfig) -> tuple[int, int] | None:
        """Height and width of the depth that a policy sees, in pixels; None where its cameras have none in common."""
        known = self.cameras
        sizes = {(known[key].height, known[key].width) for key in camera_keys(encoder) if key in known}
        return sizes.pop() if len(sizes) == 1 else None

    def settle(self, config: Config) -> None:
        """Fills in what a configuration leaves to the task: which cameras and vectors the policy sees.

        Raises:
            ConfigError: Where the task does not have what the configuration names.
        """

    def check(self, config: Config) -> None:
        """Checks that a task can do what an experiment asks of it, before anything is begun.

        Raises:
            ConfigError: Where they do not go together.
        """
        if self.config.num_envs < 1:
            raise ConfigError(f"env.num_envs must be at least 1, got {self.config.num_envs}.")
        try:
            make_sensor(self.sensor)
        except ValueError as error:
            raise ConfigError(f"env.sensor: {error}") from error

    def require(self, ability: Ability) -> None:
        """Raises a ConfigError where the task cannot do this."""
        if ability in self.lacks:
            raise ConfigError(f"{self.config.id}: {self.lacks[ability]}")

    @abstractmethod
    def make(
        self,
        observations: Sequence[str],
        *,
        num_envs: int | None = None,
        seed: int = 0,
        layouts: Sequence[int] = (),
        sensor: str | None = None,
        renderer: str | None = None,
        pictures: bool = False,
    ) -> VectorEnv[Any, Any, Any]:
        """The environments, their depth as the sensor measures it.

        Args:
            observations: Which observations they give, see `policy_keys`; what is left out costs nothing.
            num_envs: How many, in the place of the configuration's number.
            seed: Of the sensor's random numbers.
            layouts: Numbers of the episodes to play first, in this order.
            sensor: A sensor to see with in the place of the configuration's, see `defm_rl.sensors.SENSORS`.
            renderer: What draws depth, in the place of the configuration's.
            pictures: Whether `render()` is to give pictures, for films.

        Raises:
            ConfigError: For what the task cannot do, or an observation that it does not give.
            ValueError: For a setting that the task refuses.
        """

    def _asked_for(self, sensor: str | None, renderer: str | None, pictures: bool) -> str:
        """Checks what is asked of `make`, of environments that draw by themselves; returns the sensor to see with.

        Raises:
            ConfigError: For a renderer, or for films that there cannot be.
            ValueError: For a sensor that does not exist, by a policy that sees nothing too.
        """
        if renderer not in (None, "auto"):
            raise ConfigError(f"renderer={renderer}: {self.config.id} draws its depth by itself.")
        if pictures:
            self.require(Ability.FILMS)
        sensor = self.sensor if sensor is None else sensor
        make_sensor(sensor)
        return sensor

    def try_out(self, observations: Sequence[str]) -> None:
        """Makes the environments as small as can be, where that is cheap, to see whether they can be made.

        Raises:
            ConfigError, ValueError: See `make`.
        """

    def make_encoded(
        self, observations: Sequence[str], settings: EncoderConfig, encoder: DepthEncoder | None, **kwargs: Any
    ) -> VectorEnv[Any, Any, Any]:
        """The environments as a policy sees them: through a frozen encoder, each frame encoded once.

        Args:
            observations: Which observations they give.
            settings: Where the encoder stands.
            encoder: The encoder, where there is one.
            **kwargs: For `make`.
        """
        return encode_once(self.make(observations, **kwargs), settings, encoder)

    def examine(self, *, num_envs: int, steps: int, seed: int) -> EnvReport:
        """What `check_env` finds in the environments, before any simulated sensor.

        Args:
            num_envs: How many are looked at.
            steps: Random steps of each.
            seed: Of resets and actions.

        Raises:
            ConfigError: Where they cannot be made.
        """
        fovs = {camera.horizontal_fov_deg for camera in self.cameras.values()}
        env = self.make((*self.cameras, *self.vectors), num_envs=num_envs, sensor=IDEAL)
        try:
            fov_deg = fovs.pop() if len(fovs) == 1 else None
            return check_env(env, depth_keys=list(self.cameras), horizontal_fov_deg=fov_deg, steps=steps, seed=seed)
        finally:
            env.close()

    def smallest(self) -> Env:
        """The configuration with a single environment that draws nothing, to be asked about its spaces."""
        return dataclasses.replace(self.config, num_envs=1)

    def map(self, env: VectorEnv[Any, Any, Any]) -> Map | None:
        """The map of this task's environments, where they have one."""
        return None
