"""The typed configuration of an experiment; the values stand in `conf/`."""

import contextlib
import dataclasses
import difflib
import functools
import importlib.resources
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hydra import compose, initialize_config_module
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import MISSING, DictConfig
from omegaconf.errors import OmegaConfBaseException

from defm_rl.encoders.registry import custom_name, published_name
from defm_rl.encoders.weights import InvalidWeightsError, WeightsNotFoundError, WeightsUnavailableError
from defm_rl.envs import LocomotionConfig, ManipulationConfig, NavigationConfig
from defm_rl.errors import UserError
from defm_rl.plugins import load_plugins

CONF_MODULE = "defm_rl.experiments.conf"

FREE = ("env.kwargs", "encoder.kwargs")
"""Keys that hold whatever the code of others takes, by names of its own."""

PLUGINS = "defm_rl.experiments"
"""The entry point group of packages that are folders of configurations, as `conf/` is."""

SEARCH_PATH = "hydra.searchpath"
"""The key that names further folders of configurations, whoever composes them."""


@dataclass
class EnvConfig:
    """A vectorized environment, by its gymnasium id."""

    simulator: ClassVar[str]  # the module of `tasks/` that makes it

    id: str = MISSING
    num_envs: int = 32


@dataclass
class MujocoEnvConfig(EnvConfig):
    """Of a MuJoCo task; the task's own settings follow in `env_config`'s classes."""

    simulator: ClassVar[str] = "mujoco"

    level: str = MISSING  # how hard; the task's documentation lists its levels
    renderer: str = "auto"  # egl, rays, or auto: EGL where there is OpenGL
    sensor: str = "ideal"  # the depth camera that policies see with, in training and evaluation; docs/sensors.md

    def task(self) -> dict[str, Any]:
        """The task's own settings, as `gymnasium.make_vec` takes them."""
        others = ("id", "num_envs", "sensor")
        return {name: value for name, value in dataclasses.asdict(self).items() if name not in others}


def env_config(task: type) -> type[MujocoEnvConfig]:
    """A task's frozen settings as a schema that Hydra can fill, with what `MujocoEnvConfig` adds.

    Args:
        task: Such as `defm_rl.envs.NavigationConfig`: each of its fields becomes a key `env.NAME`, but for those that
            an experiment decides elsewhere.
    """
    name = task.__name__.removesuffix("Config")
    settings = [("id", str, field(default=f"defm_rl/{name}-v0")), *_settings(task)]
    schema = dataclasses.make_dataclass(f"{name}EnvConfig", settings, bases=(MujocoEnvConfig,))
    schema.__doc__ = f"See `defm_rl.envs.{task.__name__}`."
    return schema


def _settings(task: type) -> list[tuple[str, Any, Any]]:
    """Fields for `make_dataclass`; a nested frozen dataclass, which Hydra could not fill, becomes one that it can."""
    settings: list[tuple[str, Any, Any]] = []
    for entry in dataclasses.fields(task):
        kind, default = entry.type, entry.default
        if entry.name in ("observations", "threads"):
            continue
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            kind = dataclasses.make_dataclass(kind.__name__, _settings(kind))
            settings.append((entry.name, kind, field(default_factory=kind)))
        else:
            settings.append((entry.name, kind, field(default=default)))
    return settings


NavigationEnvConfig = env_config(NavigationConfig)
LocomotionEnvConfig = env_config(LocomotionConfig)
ManipulationEnvConfig = env_config(ManipulationConfig)


@dataclass
class IsaaclabNavigationEnvConfig(EnvConfig):
    """The navigation task in Isaac Lab, see `defm_rl.envs.isaaclab.navigation`."""

    simulator: ClassVar[str] = "isaaclab"

    id: str = "defm_rl/Isaac-Navigation-v0"
    num_envs: int = 64
    depth_size: tuple[int, int] = (48, 96)  # height and width of the depth image, pixels
    device: str = "auto"  # of the simulation: cpu, cuda:0, ..., or auto: a GPU where there is one
    max_episode_steps: int = 60  # of 0.2 s
    sensor: str = "ideal"  # the depth camera that policies see with, in training and evaluation; docs/sensors.md


@dataclass
class MjlabEnvConfig(EnvConfig):
    """A task of mjlab with a depth camera, see `defm_rl.envs.mjlab.tasks`."""

    simulator: ClassVar[str] = "mjlab"

    num_envs: int = 64
    depth_size: tuple[int, int] = (48, 80)  # height and width of the depth image, pixels
    device: str = "auto"  # of the simulation: cpu, cuda:0, ..., or auto: a GPU where there is one
    max_episode_steps: int = 1000  # of 0.02 s
    max_action: float = 3.0  # actions are from minus this to this; mjlab scales them for each joint
    sensor: str = "ideal"  # the depth camera that policies see with, in training and evaluation; docs/sensors.md


@dataclass
class MjlabLiftEnvConfig(MjlabEnvConfig):
    """A YAM arm lifts a cube that its wrist camera sees."""

    id: str = "defm_rl/Mjlab-Lift-Cube-Yam"
    depth_size: tuple[int, int] = (64, 64)


@dataclass
class MjlabGo1EnvConfig(MjlabEnvConfig):
    """Unitree's Go1 tracks velocities over rough terrain that it sees."""

    id: str = "defm_rl/Mjlab-Velocity-Rough-Unitree-Go1"


@dataclass
class MjlabG1EnvConfig(MjlabEnvConfig):
    """Unitree's G1 tracks velocities over rough terrain that it sees."""

    id: str = "defm_rl/Mjlab-Velocity-Rough-Unitree-G1"


@dataclass
class GymnasiumEnvConfig(EnvConfig):
    """Any environment that gymnasium knows by its id: `Name-v0`, or `package:Name-v0` where importing registers it."""

    simulator: ClassVar[str] = "gymnasium"

    num_envs: int = 8
    kwargs: dict[str, Any] = field(default_factory=dict)  # for the environment
    vectorize: str = (
        "auto"  # sync, async: copies of it, in one process or in several; own: by itself; auto: sync if it can
    )
    max_episode_steps: int | None = None  # null: the environment's
    depth_keys: list[str] | None = None  # observations that are depth, nested ones as a/b/c; null: what looks like it
    depth_unit: Any = "m"  # m, mm, or metres per count
    max_depth_m: float | None = None  # beyond this a pixel is a hole
    near: float | None = None  # metres to the near plane of a z-buffer from 0 to 1, which is then converted
    far: float | None = None  # and to its far plane
    render_depth: Any = False  # true: depth is what it renders as render_mode=depth_array; or the name of a method
    success_key: str | None = None  # in the last info; null: success or is_success; without any, reward is the measure
    measures: list[str] = field(default_factory=list)  # other numbers of the last info to report
    step_s: float | None = None  # seconds between two actions; null: the environment's dt
    horizontal_fov_deg: float | None = None  # of the depth cameras
    sensor: str = "ideal"  # the depth camera that policies see with, in training and evaluation; docs/sensors.md


@dataclass
class EncoderConfig:
    """What stands between the depth image and the policy."""

    kind: str = MISSING  # defm: an encoder by name | cnn: a small CNN from scratch | blind: the policy gets no depth
    name: str = "defm_resnet18"  # see `defm-rl encoders`
    class_name: str | None = None  # of an encoder that has no name: package.module:Class; then this is what is taken
    kwargs: dict[str, Any] = field(default_factory=dict)  # what the class is called with
    weights: str = "hub"  # hub, a path, or random
    fallback: str = "error"  # where the hub cannot be reached: error, or go on with random weights
    features: list[str] = field(default_factory=lambda: ["global"])
    pool: str = "grid"  # how a map becomes a vector: mean, columns, grid, spatial_softmax, attention, flatten
    grid: tuple[int, int] = (2, 4)  # rows and columns of the grid pool
    bifpn: bool = True  # whether maps pass through the BiFPN
    precision: str = "float32"  # what the network computes in: float32, bfloat16 or float16
    compile: str = "auto"  # how it runs: auto, inductor (torch.compile; takes a minute at the start), or off
    trainable: Any = field(default_factory=list)  # stages to train, or all; empty: frozen, encoded once per frame
    learning_rate_scale: float = 0.1  # of the encoder's learning rate to the policy's, where it is trained
    latent_dim: int = 64  # the features are projected to this many before they meet the state
    cameras: list[str] | None = (
        None  # the depth images that the policy sees; null: depth, or all that others' tasks have
    )
    standardize: bool = True  # running standardization of the features, clipped at 5 deviations

    def __post_init__(self) -> None:
        """One spelling of `trainable`, a list, and of the encoder: its name, whoever made it."""
        try:
            if self.class_name is not None:
                self.name = custom_name(self.class_name, self.kwargs)
            elif self.kwargs:
                raise ValueError("they are for encoder=custom, whose class they make")
            self.name = published_name(self.name)
        except ValueError as error:
            key = "name" if self.class_name is None and not self.kwargs else "class_name and encoder.kwargs"
            raise ConfigError(f"encoder.{key}: {error}") from error
        if self.trainable in (None, "none", "null"):
            self.trainable = []
        elif not isinstance(self.trainable, list | tuple):
            self.trainable = [str(self.trainable)]


@dataclass
class AlgoConfig:
    """What the algorithms share."""

    takes_tensors: ClassVar[bool] = False  # whether observations may be tensors, on any device

    name: str = MISSING
    total_steps: int = MISSING  # environment steps, all environments together
    time_limit_s: float | None = None  # end training after this many seconds if the steps take longer
    learning_rate: float = 3e-4
    final_learning_rate_share: float = 1.0  # the learning rate falls linearly to this share of its start
    net_arch: list[int] = field(default_factory=lambda: [64, 64])
    observations: list[str] | None = (
        None  # what the policy knows besides depth; null: state, or all vectors of others' tasks
    )


@dataclass
class PPOConfig(AlgoConfig):
    """Proximal policy optimization (Schulman et al. 2017), as in Stable-Baselines3."""

    name: str = "ppo"
    gamma: float = 0.99
    batch_size: int = 256
    n_steps: int = 64  # rollout length per environment
    n_epochs: int = 8
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    ent_coef: float = 0.0
    vf_coef: float = 0.5
    max_grad_norm: float = 0.5
    target_kl: float | None = 0.03  # ends an update early: wide features raise the effective step
    log_std_init: float = -0.7


@dataclass
class SACConfig(AlgoConfig):
    """Soft actor-critic (Haarnoja et al. 2018), as in Stable-Baselines3."""

    name: str = "sac"
    gamma: float = 0.99
    batch_size: int = 256
    buffer_size: int = 200_000  # transitions
    learning_starts: int = 5_000  # steps before the first update
    tau: float = 0.005
    train_freq: int = 1  # vectorized steps between updates
    gradient_steps: int = 8  # updates each time


@dataclass
class RslRlConfig(AlgoConfig):
    """What RSL-RL's algorithms share; the names are RSL-RL's."""

    takes_tensors: ClassVar[bool] = True

    activation: str = "elu"
    obs_normalization: bool = False  # running standardization of the vector observations
    num_steps_per_env: int = 64  # rollout length per environment
    num_learning_epochs: int = 5
    max_grad_norm: float = 1.0
    init_std: float = 0.5  # of the actions that are tried out
    initial_output_scale: float = 1.0  # of the weights that make actions: small ones begin with actions near 0
    rnn_type: str | None = None  # lstm or gru: a policy with a memory
    rnn_hidden_dim: int = 128
    rnn_num_layers: int = 1


@dataclass
class RslPPOConfig(RslRlConfig):
    """Proximal policy optimization as in RSL-RL."""

    name: str = "rsl_ppo"
    critic_observations: list[str] | None = None  # what the critic knows, depth included; null: what the policy does
    gamma: float = 0.99
    lam: float = 0.95
    num_mini_batches: int = 4
    clip_param: float = 0.2
    entropy_coef: float = 0.0
    value_loss_coef: float = 1.0
    use_clipped_value_loss: bool = True
    schedule: str = "adaptive"  # of the learning rate: adaptive (to the KL divergence), or fixed (or linearly falling)
    desired_kl: float = 0.01


@dataclass
class DistillationConfig(RslRlConfig):
    """A student acts and learns to do what its teacher would have done (Ross et al. 2011), as in RSL-RL."""

    name: str = "distillation"
    num_steps_per_env: int = 32
    gradient_length: int = 2  # steps whose losses are added up for one step of the optimizer; more with a memory
    loss_type: str = "mse"  # or huber
    init_std: float = 0.1


@dataclass
class LoggerConfig:
    """Where curves go besides TensorBoard's files and the run's own folder."""

    wandb: bool = False
    project: str = "defm-rl"
    mode: str | None = None  # online, offline or disabled; null: as the environment variable WANDB_MODE says
    entity: str | None = None  # the user or team; null: as you are logged in
    group: str | None = None  # null: that of the runs that differ only in their seeds
    tags: list[str] = field(default_factory=list)  # beside experiment, task, encoder and algorithm
    checkpoint: bool = True  # whether the last checkpoint goes there, as an artifact


@dataclass
class EvaluationConfig:
    """How the trained policy is judged."""

    episodes: int = 200
    first_layout: int = 1_000_000  # layouts are numbered; training never draws these
    clips: int = 6  # episodes shown in the animation


@dataclass
class Config:
    """One experiment."""

    env: EnvConfig = MISSING
    encoder: EncoderConfig = MISSING
    algo: AlgoConfig = MISSING
    logger: LoggerConfig = MISSING
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    experiment: str = "custom"  # its name; also that of the folder its runs are in
    seed: int = 0
    teacher: str | None = None  # the folder of the run whose policy a student learns from; algo=distillation
    checkpoint_every: int = 25_000  # environment steps
    resume: str | None = None  # the folder of a run to go on with


GROUPS = ("env", "encoder", "algo", "logger")
_SCHEMAS: dict[str, tuple[type, ...]] = {
    "env": (
        NavigationEnvConfig,
        LocomotionEnvConfig,
        ManipulationEnvConfig,
        IsaaclabNavigationEnvConfig,
        MjlabLiftEnvConfig,
        MjlabGo1EnvConfig,
        MjlabG1EnvConfig,
        GymnasiumEnvConfig,
    ),
    "encoder": (EncoderConfig,),
    "algo": (PPOConfig, SACConfig, RslPPOConfig, DistillationConfig),
    "logger": (LoggerConfig,),
}


class _InstalledConfigurations(SearchPathPlugin):
    """Lets Hydra search the packages that others have named as folders of configurations."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        for package in load_plugins(PLUGINS):
            search_path.append("defm-rl", f"pkg://{package.__name__}")


@functools.cache
def _search_installed() -> None:
    Plugins.instance().register(_InstalledConfigurations)


def register() -> None:
    """Makes the schemas known to Hydra, and where packages keep configurations of their own."""
    _search_installed()
    store = ConfigStore.instance()
    store.store(name="config_schema", node=Config)
    for group, schemas in _SCHEMAS.items():
        for schema in schemas:
            store.store(group=group, name=f"{option_of(schema)}_schema", node=schema)


def option_of(schema: type) -> str:
    """A schema's option: an algorithm's own name; else of the class, `navigation` of NavigationEnvConfig."""
    if issubclass(schema, AlgoConfig):
        return schema.name
    name = schema.__name__.removesuffix("Config").removesuffix("Env")
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def schema_of(group: str, values: Mapping[str, Any]) -> type:
    """The schema that a group's values are of.

    Raises:
        ConfigError: For a task or an algorithm that is none of ours.
    """
    schemas = _SCHEMAS[group]
    if len(schemas) == 1:
        return schemas[0]
    key = {"env": "id", "algo": "name"}[group]
    by_name: dict[str, type] = {getattr(schema, key): schema for schema in schemas}
    if values.get(key) in by_name:
        return by_name[values[key]]
    for schema in schemas:  # one for whatever others have made has no name of its own
        if getattr(schema, key) == MISSING and values.keys() <= {entry.name for entry in dataclasses.fields(schema)}:
            return schema
    raise ConfigError(_not_ours(group, key, values.get(key), by_name))


def _not_ours(group: str, key: str, value: Any, known: Mapping[str, type]) -> str:
    options = ", ".join(f"{group}={option_of(schema)}" for schema in known.values())
    return f"{group}.{key}={value}: `defm-rl` trains and evaluates on its own options, there is {options}."


def compose_config(overrides: Sequence[str]) -> DictConfig:
    """Composes the configuration of an experiment without running it.

    Args:
        overrides: As on the command line: `experiment=quickstart algo.gamma=0.9`.

    Raises:
        ConfigError: For a key, an option or a value that does not fit, with the nearest one that does.
    """
    register()
    GlobalHydra.instance().clear()
    with initialize_config_module(CONF_MODULE, version_base="1.3"):
        try:
            config = compose("config", with_free_keys(overrides))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(explain(error, overrides)) from error
    return config


def is_free(key: str) -> bool:
    """Whether a key is one of `FREE`, or stands below one, where any name may."""
    return key in FREE or key.startswith(tuple(f"{free}." for free in FREE))


def is_key(key: str) -> bool:
    """Whether some configuration can have this key."""
    return key in known_keys() or is_free(key)


def with_free_keys(overrides: Sequence[str]) -> list[str]:
    """Overrides as Hydra takes them: `env.kwargs.size=3` adds a key, or changes the one there is."""
    return [f"++{text}" if is_free(text.partition("=")[0]) else text for text in overrides]


def with_search_path(arguments: Sequence[str]) -> list[str]:
    """A command line on which `--config-dir FOLDER` (or `-cd FOLDER`) is written as `hydra.searchpath=[FOLDER]`.

    Raises:
        ConfigError: Where there is no such folder.
    """
    folders, others, left = [], [], iter(arguments)
    for argument in left:
        option, equals, value = argument.partition("=")
        if option in ("--config-dir", "-cd"):
            folders.append(Path(value if equals else next(left, "")).expanduser())
        else:
            others.append(argument)
    for folder in folders:
        if not folder.is_dir() or folder == Path():
            raise ConfigError(f"--config-dir {folder}: there is no such folder.")
    if not folders:
        return others
    if any(argument.partition("=")[0] == SEARCH_PATH for argument in others):
        raise ConfigError(f"--config-dir and {SEARCH_PATH}= say the same: write all folders in {SEARCH_PATH}=[...].")
    listed = ",".join("'file://" + str(folder.resolve()).replace("'", "\\'") + "'" for folder in folders)
    return [*others, f"{SEARCH_PATH}=[{listed}]"]


def _searched(overrides: Sequence[str]) -> list[Path]:
    """The folders that a command line's search path names; packages are left out."""
    given = [text for text in overrides if text.partition("=")[0] == SEARCH_PATH]
    values = [OverridesParser.create().parse_override(text).value() for text in given]
    places = [str(place) for value in values if isinstance(value, list) for place in value]
    return [Path(place.removeprefix("file://")) for place in places if "://" not in place.removeprefix("file://")]


class ConfigError(UserError, ValueError):
    """A configuration that cannot be, with what to write instead."""


@contextlib.contextmanager
def refused_settings(group: str = "") -> Iterator[None]:
    """Turns the refusal of a setting by what is built from it into a ConfigError.

    Args:
        group: Where the setting stands; its keys are named as on the command line.
    """
    try:
        yield
    except (WeightsUnavailableError, WeightsNotFoundError, InvalidWeightsError) as error:
        raise type(error)(f"encoder.weights: {error}") from error
    except ConfigError:
        raise
    except (TypeError, ValueError, ImportError) as error:
        raise ConfigError(f"{group}: {error}" if group else str(error)) from error


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """What to write in the place of overrides that Hydra or OmegaConf refuses."""
    message = str(error).splitlines()[0] if str(error) else type(error).__name__
    cause = error.__cause__
    if cause is not None and str(cause):
        message = f"{message} ({str(cause).splitlines()[0]})"
    keys = known_keys()
    for text in overrides:
        key, _, value = text.partition("=")
        key = key.lstrip("+~")
        if key not in keys and not is_free(key):
            return f"{text!r}: there is no key {key!r}.{suggest(key, keys)}"
        if key in ("experiment", *_SCHEMAS):
            options = group_options(key, _searched(overrides))
            if value not in options:
                return f"{text!r}: {key} has no {value!r}.{suggest(value, options)} There is: {', '.join(options)}."
        group, _, name = key.partition(".")
        if f"Key '{name}' not in" in message and group in _SCHEMAS:
            return f"{text!r}: {_belongs_to(group, key, message)}"
    return message


def _belongs_to(group: str, key: str, message: str) -> str:
    """To which options of a group a key belongs that the chosen one does not have."""
    owners, near = [], ""
    for schema in _SCHEMAS[group]:
        keys = list(keys_below(group, schema))
        if key in keys:
            owners.append(option_of(schema))
        elif f"not in '{schema.__name__}'" in message:
            near = suggest(key, keys)
    return f"{key!r} is a key of {' and '.join(f'{group}={owner}' for owner in owners)} only.{near}"


def group_options(group: str, also: Sequence[Path] = ()) -> list[str]:
    """The names that a group of the configuration can take, here and in other folders of configurations."""
    ours = importlib.resources.files(CONF_MODULE) / group
    installed = [importlib.resources.files(package.__name__) for package in load_plugins(PLUGINS)]
    theirs = [folder / group for folder in (*also, *installed) if (folder / group).is_dir()]
    files = (file.name for folder in (ours, *theirs) for file in folder.iterdir())
    return sorted({name.removesuffix(".yaml") for name in files if name.endswith(".yaml")})


def known_keys() -> list[str]:
    """Every key that some configuration can have, groups' keys as `group.key`."""
    keys = []
    for top in dataclasses.fields(Config):
        keys.append(top.name)
        for schema in _SCHEMAS.get(top.name, ()):
            keys.extend(keys_below(top.name, schema))
    keys.extend(keys_below("evaluation", EvaluationConfig))
    keys.append(SEARCH_PATH)
    return list(dict.fromkeys(keys))


def keys_below(prefix: str, schema: type) -> Iterator[str]:
    """The dotted keys of a schema's fields; of a nested one, itself and those of its fields."""
    for entry in dataclasses.fields(schema):
        yield f"{prefix}.{entry.name}"
        if isinstance(entry.type, type) and dataclasses.is_dataclass(entry.type):
            yield from keys_below(f"{prefix}.{entry.name}", entry.type)


def suggest(word: str, known: Sequence[str]) -> str:
    """The nearest known word as a question, or nothing: by initials (lr), by its last part, or as a whole."""
    group, _, leaf = word.rpartition(".")
    near = [name for name in known if name.rpartition(".")[0] == group] if group else known
    by_leaf = {name.rpartition(".")[2]: name for name in near or known}
    initials = {"".join(part[0] for part in name.split("_") if part): name for name in by_leaf}
    abbreviated = sorted((short for short in initials if short.startswith(leaf)), key=len)
    if len(leaf) > 1 and abbreviated:
        return f" Did you mean {by_leaf[initials[abbreviated[0]]]!r}?"
    for words, cutoff in ((by_leaf, 0.6), ({name: name for name in known}, 0.5)):
        close = difflib.get_close_matches(leaf if words is by_leaf else word, list(words), n=1, cutoff=cutoff)
        if close:
            return f" Did you mean {words[close[0]]!r}?"
    return ""
