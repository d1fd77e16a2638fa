"""Any environment that gymnasium knows: a single one, vectorized here, or one that is vectorized by itself."""

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import Error as GymnasiumError
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv

from defm_rl.checking import EnvReport, check_env
from defm_rl.depth import DepthFormat, ZBuffer, as_tensor
from defm_rl.envs.core import Command
from defm_rl.envs.rendering import import_triton
from defm_rl.experiments.config import Config, ConfigError, GymnasiumEnvConfig, refused_settings, suggest
from defm_rl.experiments.tasks.adapted import Adapted, NumberedEpisodes, Observed, at, parts_of, stretch
from defm_rl.experiments.tasks.base import IDEAL, Ability, DepthCamera, Task
from defm_rl.gymnasium import SimulateSensor
from defm_rl.observations import ONLY_KEY
from defm_rl.plugins import load_plugins

VECTORIZATIONS = ("auto", "sync", "async", "own")


class GymnasiumTask(Task[GymnasiumEnvConfig]):
    """An environment that somebody else wrote."""

    @property
    def lacks(self) -> Mapping[Ability, str]:  # type: ignore[override]
        """Films, where it does not render."""
        if self.config.render_depth is True:
            return {Ability.FILMS: "it renders its depth (env.render_depth), so that it cannot be filmed."}
        if not self.cameras:
            return {Ability.FILMS: "it gives no depth that a film could show."}
        if not self._probe.pictures:
            return {Ability.FILMS: "it has no render_mode 'rgb_array', so that it cannot be filmed."}
        return {}

    @property
    def sensor(self) -> str:
        """The configuration's."""
        return self.config.sensor

    @property
    def step_s(self) -> float | None:
        """The configuration's, or the `dt` of the environment."""
        return self.config.step_s or self._probe.step_s

    @property
    def cameras(self) -> Mapping[str, DepthCamera]:
        """What `env.depth_keys` names, or looks like depth."""
        fov, observed = self.config.horizontal_fov_deg, self._probe.observed
        return {
            key: DepthCamera(*size, fov, observed.depth_format, observed.z_buffer)
            for key, size in observed.sizes.items()
        }

    @property
    def vectors(self) -> tuple[str, ...]:
        """The observations that are vectors."""
        return self._probe.observed.vectors

    @property
    def entries(self) -> Mapping[str, Sequence[str]]:
        """Their keys and places: nobody says more of them."""
        return {key: self._probe.observed.entries(key) for key in self.vectors}

    @property
    def commands(self) -> Sequence[Command]:
        """What the environment takes, where actions are stretched to its bounds."""
        reach = stretch(self._probe.actions)
        if reach is None:
            return ()
        middles, halves = (x.ravel().tolist() for x in reach)
        return [
            Command(f"action[{i}]", "", half, middle)
            for i, (middle, half) in enumerate(zip(middles, halves, strict=True))
        ]

    @property
    def depth_can_be_left_out(self) -> bool:
        """Whether it is drawn here, and not by the environment's own observation."""
        return bool(self.config.render_depth)

    def settle(self, config: Config) -> None:
        """Fills in which cameras and vectors the policy sees, where that is left to the task: all.

        Raises:
            ConfigError: Where there are none, or the environment cannot be made.
        """
        if config.encoder.cameras is None:
            config.encoder.cameras = list(self.cameras)
        if config.encoder.kind != "blind" and not config.encoder.cameras:
            raise ConfigError(
                f"{self.config.id} gives no depth: its observations are {self._probe.described}. Name what is depth in "
                "env.depth_keys, have it drawn by the environment (env.render_depth=true, where its render_mode can be "
                "'depth_array'), or train without (encoder=blind)."
            )
        if config.algo.observations is None:
            config.algo.observations = list(self.vectors)
        known = (*self.cameras, *self.vectors)
        for name, chosen in (
            ("encoder.cameras", config.encoder.cameras),
            ("algo.observations", config.algo.observations),
        ):
            for key in chosen:
                if key not in known and not (name == "encoder.cameras" and config.encoder.kind == "blind"):
                    raise ConfigError(
                        f"{name}: {self.config.id} gives no {key!r}.{suggest(key, known)} It gives "
                        f"{self._probe.described}."
                    )

    def check(self, config: Config) -> None:
        """Raises a ConfigError for settings that do not go together."""
        super().check(config)
        if self._probe.fault:
            raise ConfigError(self._probe.fault)

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
        """See `Task.make`."""
        sensor = self._asked_for(sensor, renderer, pictures)
        number = num_envs or self.config.num_envs
        observed = self._probe.observed
        cheapest = self.config
        if not any(key in observed.sizes for key in observations):
            cheapest = dataclasses.replace(self.config, render_depth=False)
        env = vectorized(cheapest, number, list(layouts), "rgb_array" if pictures else None)
        adapted = Adapted(env, observed, observations, self.config.success_key, self.config.measures, list(layouts))
        cameras = [key for key in observed.sizes if key in adapted.keys]
        if sensor == IDEAL or not cameras:
            return adapted
        return SimulateSensor(
            adapted,
            sensor,
            depth_keys=cameras,
            step_s=self.step_s,
            horizontal_fov_deg=self.config.horizontal_fov_deg,
            seed=seed,
        )

    def examine(self, *, num_envs: int, steps: int, seed: int) -> EnvReport:
        """See `Task.examine`: the environments as they are, and not what is made of them here."""
        self._probe  # noqa: B018  says what is wrong with the settings
        env = vectorized(self.config, num_envs)
        try:
            return check_env(
                env,
                depth_keys=self.config.depth_keys,
                unit=self.config.depth_unit,
                max_depth_m=self.config.max_depth_m,
                z_buffer=z_buffer(self.config),
                horizontal_fov_deg=self.config.horizontal_fov_deg,
                success_key=self.config.success_key,
                steps=steps,
                seed=seed,
            )
        finally:
            env.close()

    @property
    def _probe(self) -> "_Probe":
        return _probe(json.dumps(dataclasses.asdict(self.config), sort_keys=True))


make_task = GymnasiumTask


@dataclasses.dataclass(frozen=True)
class _Probe:
    """What one environment says of itself."""

    observed: Observed
    actions: spaces.Space[Any]
    step_s: float | None
    pictures: bool
    described: str
    fault: str


@functools.lru_cache(maxsize=8)
def _probe(settings: str) -> _Probe:
    """Asks one environment of the configuration that stands in JSON: it is made once, however often it is asked."""
    config = GymnasiumEnvConfig(**json.loads(settings))
    planes = z_buffer(config)
    try:
        depth_format = DepthFormat(config.depth_unit, config.max_depth_m)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"env.depth_unit={config.depth_unit}, env.max_depth_m={config.max_depth_m}: {error}"
        ) from error
    if config.vectorize == "async":
        config = dataclasses.replace(config, vectorize="sync")  # one can be asked without a process of its own
    env = vectorized(config, 1)
    try:
        observed = Observed.of(
            env.single_observation_space,
            config.depth_keys,
            depth_format=depth_format,
            z_buffer=planes,
        )
        step_s = getattr(getattr(env, "envs", [env])[0].unwrapped, "dt", None)
        pictures = "rgb_array" in env.metadata.get("render_modes", ())
        described = ", ".join(f"{key} {space}" for key, space in observed.given.items())
        return _Probe(
            observed,
            env.single_action_space,
            float(step_s) if isinstance(step_s, int | float) else None,
            pictures,
            described,
            _fault(config, observed, env.reset(seed=0)[0]),
        )
    finally:
        env.close()


def _fault(config: GymnasiumEnvConfig, observed: Observed, first: Any) -> str:
    """What is wrong with depth that nobody can have meant, so that nothing is learned from it; else nothing.

    That is what is declared to lie between 0 and 1 without a unit; and first frames with nothing but NaN, or with
    different values below 0.
    """
    for key in observed.sizes:
        if observed.z_buffer is None and config.depth_unit == "m" and _is_normalised(observed.given[key]):
            return (
                f"{config.id} declares {key!r} to lie between 0 and 1: is it normalised? Have it give metres, or name "
                "the planes of a z-buffer, env.near and env.far; where its 1 is a metre, say so by env.depth_unit=1.0. "
                f"See it: defm-rl check-env env=gymnasium env.id={config.id}."
            )
        pixels = as_tensor(at(first, key)).float()
        if pixels.isnan().all():
            said = "nothing but NaN in it."
        elif len(negative := pixels[pixels < 0].unique()) > 1:  # one value, such as -1, marks holes
            said = f"values down to {negative[0].item():.3g}, and no distance is negative: is it normalised?"
        else:
            continue
        return (
            f"{config.id}: the first frame of {key!r} has {said} Depth is expected in metres, or as env.depth_unit "
            f"says, and 0 where there is none. See it: defm-rl check-env env=gymnasium env.id={config.id}."
        )
    return ""


def _is_normalised(space: spaces.Space[Any]) -> bool:
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        return False
    return bool((space.low == 0).all() and (space.high == 1).all())


def z_buffer(config: GymnasiumEnvConfig) -> ZBuffer | None:
    """The planes of the z-buffer that depth is; None where it is none.

    Raises:
        ConfigError: Where one plane is missing, or they cannot be those of a camera.
    """
    if config.near is None and config.far is None:
        return None
    if config.near is None or config.far is None:
        raise ConfigError("env.near and env.far belong together: the planes of a z-buffer, in metres.")
    with refused_settings("env.near, env.far"):
        return ZBuffer(config.near, config.far)


def specification(identifier: str) -> EnvSpec:
    """What gymnasium has registered under "Name-v0", or under "package:Name-v0" once the package is imported.

    Raises:
        ConfigError: Where there is nothing.
    """
    import_triton()  # whatever the environment draws with
    module, colon, name = identifier.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever the code of somebody else raises
            raise ConfigError(
                f"env.id={identifier}: the module {module!r} cannot be imported: {type(error).__name__}: {error}"
            ) from error
    try:
        load_plugins("defm_rl.tasks")
        return gymnasium.spec(name)
    except GymnasiumError as error:
        hint = "" if colon else " Where a package registers it on being imported, write env.id=package:Name-v0."
        near = suggest(name, list(gymnasium.registry))
        raise ConfigError(f"env.id={identifier}: gymnasium knows no such environment.{near}{hint}") from error


def vectorized(
    config: GymnasiumEnvConfig, num_envs: int, layouts: Sequence[int] = (), render_mode: str | None = None
) -> VectorEnv[Any, Any, Any]:
    """The environments as they are, with same-step autoreset.

    Raises:
        ConfigError: Where they cannot be made.
    """
    spec = specification(config.id)
    if config.vectorize not in VECTORIZATIONS:
        near = suggest(config.vectorize, VECTORIZATIONS)
        raise ConfigError(f"env.vectorize={config.vectorize}: there is {', '.join(VECTORIZATIONS)}.{near}")
    own = config.vectorize == "own" or (config.vectorize == "auto" and spec.entry_point is None)
    if own and config.render_depth:
        raise ConfigError("env.render_depth: an environment that is vectorized by itself has to observe its depth.")
    kwargs = dict(config.kwargs)
    if config.render_depth is True or render_mode is not None:
        kwargs["render_mode"] = "depth_array" if config.render_depth is True else render_mode
    if config.max_episode_steps is not None:
        kwargs["max_episode_steps"] = config.max_episode_steps
    try:
        if own:
            env = gymnasium.make_vec(spec, num_envs=num_envs, vectorization_mode="vector_entry_point", **kwargs)
        else:
            makers = [
                functools.partial(_single, spec, kwargs, layouts[index::num_envs], config.render_depth)
                for index in range(num_envs)
            ]
            kind = AsyncVectorEnv if config.vectorize == "async" else SyncVectorEnv
            env = kind(makers, autoreset_mode=AutoresetMode.SAME_STEP)
    except Exception as error:  # whatever the code of somebody else raises
        raise ConfigError(f"{config.id} cannot be made: {type(error).__name__}: {error}") from error
    mode = env.metadata.get("autoreset_mode")
    if mode != AutoresetMode.SAME_STEP:
        env.close()
        raise ConfigError(
            f"{config.id} is vectorized by itself with autoreset {getattr(mode, 'value', mode)!r}, but SameStep is "
            "needed: set it in env.kwargs, or have the single environment vectorized here (env.vectorize=sync)."
        )
    return env


def _single(
    spec: EnvSpec, kwargs: Mapping[str, Any], seeds: Sequence[int], render_depth: bool | str
) -> gymnasium.Env[Any, Any]:
    env = gymnasium.make(spec, **kwargs)
    if render_depth:
        env = RenderedDepth(env, "render" if render_depth is True else str(render_depth))
    return NumberedEpisodes(env, seeds)


class RenderedDepth(gymnasium.ObservationWrapper[Any, Any, Any]):
    """What an environment draws becomes the observation "depth" beside the others.

    Args:
        env: The environment.
        method: The method that draws: `render`, in render_mode "depth_array", or one that the environment has for it.

    Raises:
        ConfigError: Where there is no such method, or it gives no image.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], method: str = "render") -> None:
        super().__init__(env)
        draw = getattr(env if method == "render" else env.unwrapped, method, None)
        if not callable(draw):
            raise ConfigError(f"env.render_depth={method}: {type(env.unwrapped).__name__} has no such method.")
        self._draw: Callable[[], Any] = draw
        env.reset()
        drawn = np.asarray(draw())
        if drawn.ndim not in (2, 3) or drawn.shape[2:] not in ((), (1,)):
            raise ConfigError(f"env.render_depth: {method}() gave {drawn.shape}, and not an image (H, W) or (H, W, 1).")
        others = {key: space for key, space in parts_of(env.observation_space).items() if key != ONLY_KEY}
        box = spaces.Box(0.0, np.inf, drawn.shape, np.float32)
        self.observation_space = spaces.Dict({**others, ONLY_KEY: box})

    def observation(self, observation: Any) -> dict[str, Any]:
        """Adds the depth."""
        seen = {key: at(observation, key) for key in self.observation_space if key != ONLY_KEY}  # type: ignore[attr-defined]
        return {**seen, ONLY_KEY: np.asarray(self._draw(), np.float32)}
