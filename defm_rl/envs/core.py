"""Depth-camera tasks on MuJoCo: many simulations in one process, behind gymnasium's vector interface."""

import copy
import dataclasses
import math
import sys
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from defm_rl.envs.randomization import DelayLine, Randomization, Randomizer
from defm_rl.envs.rendering import DepthRenderer, PictureRenderer, default_threads, far_plane_m
from defm_rl.names import hint

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Obs = dict[str, NDArray[np.float32]]
Info = dict[str, Any]
Ids = NDArray[np.int64]
Config = TypeVar("Config", bound="DataclassInstance")

_RESET_OPTIONS = ("reset_mask", "layout_seeds")

DRAWN_LAYOUTS = (2**31, 2**62)
"""From here up to there, layout seeds are drawn; those below are for whoever names layouts, and are never drawn."""


class Command(NamedTuple):
    """What one entry of an action commands: `offset + scale * action`, in a unit.

    Attributes:
        name: What.
        unit: Its unit.
        scale: What an action of 1 adds.
        offset: What an action of 0 commands.
    """

    name: str
    unit: str
    scale: float
    offset: float = 0.0


class MujocoVectorEnv(VectorEnv[Obs, NDArray[Any], NDArray[Any]], ABC):
    """Base of the tasks: `num_envs` simulations of one model, each with its own values for some of the model's fields.

    A task says how an episode begins (`_begin`), what an action does (`_advance`), what is known beside depth
    (`_vector`) and what there is to report at the end (`_results`). Seeds, autoreset, depth and infos are handled here.

    **Seeds.** An episode follows from one number alone, its layout seed. `reset(seed=s)` gives environment i the seed s
    + i, a list gives each its own; its first episode has this seed as layout seed, the next ones draw theirs from a
    generator made from it, out of `DRAWN_LAYOUTS`: a layout below 2**31 is played only where it is named. To play
    chosen layouts whatever `num_envs` is, pass `layout_seeds` to the constructor (every full reset begins with them) or
    `reset(options={"layout_seeds": range(1000, 1200)})` (for this time): whenever environments reset they take the next
    of these, in order of their index, and go on with layouts of their own when none is left.

    **Info.** When episodes end, arrays `success`, `layout_seed`, ... and their masks `_success`, ... stand in
    `info["final_info"]` with same-step autoreset and in `info` itself otherwise; `info.get("final_info", info)` finds
    them in every mode. Where an episode begins, `info["layout_seed"]` is the new one. Every task reports `success`
    (bool) and `failure` (str: "" after a success, else what went wrong, such as "collision" or "timeout"), so that
    failures can be counted whatever the task; its docstring lists the rest.

    Args:
        model: The MuJoCo model, copied for each simulation.
        num_envs: Number of simulations.
        vectors: Spaces of one simulation's vector observations by name, each (k,) float32: "state" for what a robot
            measures, "privileged" for what only a simulator knows.
        cameras: MuJoCo cameras by the name of the depth observation that each gives, such as {"depth": "front"}.
        action_space: Space of one simulation's action; actions beyond its bounds are clipped.
        idle_action: What happens before the first command of an episode arrives, where commands take time; None for 0.
        fields: Model fields that differ between simulations, as in `mujoco.batch.Batch.expand`.
        robot_body: Name of the robot's root body.
        control_step_s: Seconds between two actions.
        depth_size: Height and width of the depth images in pixels.
        observations: Which of the vectors and cameras to give; what is left out costs nothing.
        renderer: "egl", "rays" or "auto" (see `DepthRenderer`).
        threads: Threads for physics and rendering; None for one per CPU.
        max_episode_steps: Control steps before an episode is cut off.
        randomization: What else each episode draws.
        autoreset_mode: A `gymnasium.vector.AutoresetMode` or its value: "SameStep", "NextStep", "Disabled".
        layout_seeds: Layout seeds to play first after every full reset.
        render_mode: None or "rgb_array" (pictures by the camera called "top").

    Attributes:
        renderer: "egl" or "rays", whichever draws the depth images; None without them.
        horizontal_fov_deg: Field of view of each depth camera in degrees, whether it is observed or not.
        randomized: What the episodes have drawn, each (num_envs, ...), by the names of `Randomization`: 1 and 0 for
            factors and offsets that are not drawn, latencies as whole control steps. For cameras (num_envs, cameras)
            or (num_envs, cameras, 3), whether they are observed or not.

    Raises:
        ValueError: A setting that does not exist or makes no sense.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 5}
    has_map: ClassVar[bool] = False
    """Whether `layout(index)` and `poses` say where robots are on a map."""

    @property
    def entries(self) -> Mapping[str, tuple[str, ...]]:
        """What stands in which place of the vectors that a robot measures, by observation, where a task says so."""
        return {}

    @property
    def commands(self) -> tuple[Command, ...]:
        """What each entry of an action commands, where a task says so."""
        return ()

    def __init__(
        self,
        model: Any,
        num_envs: int,
        *,
        vectors: Mapping[str, spaces.Box],
        cameras: Mapping[str, str],
        action_space: spaces.Box,
        fields: Sequence[str],
        robot_body: str,
        control_step_s: float,
        depth_size: tuple[int, int],
        observations: Sequence[str],
        idle_action: Sequence[float] | None = None,
        randomization: Randomization = Randomization(),
        renderer: str = "auto",
        threads: int | None = None,
        max_episode_steps: int = 60,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        layout_seeds: Iterable[int] = (),
        render_mode: str | None = None,
    ) -> None:
        threads = default_threads() if threads is None else threads
        for name, value in (("num_envs", num_envs), ("max_episode_steps", max_episode_steps), ("threads", threads)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode must be None or 'rgb_array', got {render_mode!r}")
        self.num_envs = num_envs
        self.max_episode_steps = max_episode_steps
        self.render_mode = render_mode
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}

        self._depth_size = _checked_size(depth_size)
        aspect = self._depth_size[1] / self._depth_size[0]
        self.horizontal_fov_deg = {
            name: math.degrees(2 * math.atan(math.tan(math.radians(model.camera(camera).fovy[0]) / 2) * aspect))
            for name, camera in cameras.items()
        }
        depth_space = spaces.Box(0.0, far_plane_m(model), (1, *self._depth_size), np.float32)
        offered = {**dict.fromkeys(cameras, depth_space), **vectors}
        names = _checked_observations(observations, offered)
        self._cameras = [name for name in names if name in cameras]
        self._vectors = [name for name in names if name in vectors]
        self.single_observation_space = spaces.Dict({name: offered[name] for name in names})
        self.single_action_space = action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(action_space, num_envs)

        self._first_layout_seeds = _checked_seeds(layout_seeds)
        self._queue: deque[int] = deque()
        self._generators: dict[int, np.random.Generator] = {}  # by environment; empty until the first reset
        self._layout_seeds = np.zeros(num_envs, np.int64)
        self._elapsed = np.zeros(num_envs, np.int64)
        self._has_ended = np.zeros(num_envs, bool)

        self._batch = _batch_class()(model, num_envs, min(threads, num_envs))
        self._default_state = self._batch.state[0].copy()
        self._randomizer = Randomizer(randomization, self._batch, robot_body, list(cameras.values()), control_step_s)
        self.randomized = self._randomizer.values
        self._fields = {**self._randomizer.fields, **{name: self._batch.expand(name) for name in fields}}
        self._default_fields = {name: values[0].copy() for name, values in self._fields.items()}
        self._models = [copy.copy(model) for _ in range(num_envs)]  # hold the fields' values, for the renderers
        assert action_space.shape is not None
        self._last_actions = np.zeros((num_envs, *action_space.shape))
        self._idle_action = np.zeros(action_space.shape) if idle_action is None else np.asarray(idle_action)
        delays = self._randomizer
        self._coming: DelayLine | None = None
        if delays.max_action_delay:
            self._coming = DelayLine(num_envs, delays.max_action_delay, action_space.shape, np.float64)
        self._seen: dict[str, DelayLine] = {}
        if delays.max_depth_delay:
            self._seen = {
                name: DelayLine(num_envs, delays.max_depth_delay, self._depth_size, np.float32)
                for name in self._cameras
            }
        self._picture: PictureRenderer | None = None
        self._depth: DepthRenderer | None = None
        if self._cameras:
            seen_by = [cameras[name] for name in self._cameras]
            self._depth = DepthRenderer(renderer, model, seen_by, self._depth_size, num_envs, threads)
        self.renderer = self._depth.name if self._depth else None

    @abstractmethod
    def _begin(self, ids: Ids, seeds: Sequence[int]) -> None:
        """Write the episodes of these seeds into simulations that have just been reset to the model's defaults.

        State and fields have the model's values, and the randomized ones what was drawn, on top of which to multiply.
        """

    @abstractmethod
    def _advance(self, ids: Ids, actions: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Let these simulations act for one control step; return their rewards and which have terminated, each (n,).

        Actions are those that take effect now; `_last_actions` has what was commanded one step before, and what is
        commanded now when observations are taken.
        """

    @abstractmethod
    def _vector(self, name: str, ids: Ids) -> NDArray[np.float32]:
        """The vector observation of this name in these simulations, (n, k), within its space."""

    @abstractmethod
    def _results(self, ids: Ids) -> dict[str, NDArray[Any]]:
        """What to report of the episodes that end in these simulations, each (n, ...).

        Among it `success`, (n,) bool, and `failure`, (n,) str, as `failure_modes` makes it.
        """

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Obs, Info]:
        """Begin new episodes.

        Args:
            seed: One seed (environment i gets seed + i), or a seed or None for each environment. None goes on with the
                generator there is.
            options: "reset_mask", (num_envs,) bool: reset only these environments. "layout_seeds": see the class.

        Returns:
            The observations of all environments, and info with the layout seeds of the episodes begun.

        Raises:
            ValueError: Unknown options; seeds or a mask that do not fit.
        """
        self._check_open()
        options = options or {}
        for name in options:
            if name not in _RESET_OPTIONS:
                raise ValueError(f"unknown reset option {name!r}{hint(name, _RESET_OPTIONS)}")
        ids = self._masked(options.get("reset_mask"))
        if "layout_seeds" in options:
            self._queue = deque(_checked_seeds(options["layout_seeds"]))
        elif len(ids) == self.num_envs:
            self._queue = deque(self._first_layout_seeds)
        given = self._spread(seed)
        for i in ids.tolist():
            if given[i] is None and i not in self._generators:
                given[i] = int(self.np_random.integers(*DRAWN_LAYOUTS))
            if given[i] is not None:
                # A task draws a layout from `default_rng(seed)`; the stream of further seeds must not repeat that one.
                self._generators[i] = np.random.default_rng([given[i], 1])
        info: Info = {}
        self._restart(ids, given, info)
        return self._observe(), info

    def step(
        self, actions: NDArray[Any]
    ) -> tuple[Obs, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Info]:
        """Take one control step in every environment.

        Args:
            actions: (num_envs, ...) as the action space; clipped to its bounds.

        Returns:
            Observations, rewards (float64), terminations, truncations and info, in new arrays every time.

        Raises:
            ValueError: Actions of the wrong shape, or not finite.
            gymnasium.error.ResetNeeded: Before the first reset, or after an episode's end where autoreset is disabled.
        """
        self._check_open()
        actions = self._checked_actions(actions)
        resetting, acting = np.flatnonzero(self._has_ended), np.flatnonzero(~self._has_ended)
        if not self._generators:
            raise gymnasium.error.ResetNeeded("call reset() before the first step()")
        if len(resetting) and self.autoreset_mode is AutoresetMode.DISABLED:
            raise gymnasium.error.ResetNeeded(f"the episodes of environments {resetting.tolist()} are over: reset them")

        info: Info = {}
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros((2, self.num_envs), bool)
        self._restart(resetting, [None] * self.num_envs, info)
        if len(acting):
            rewards[acting], terminated[acting] = self._advance(acting, self._arriving(acting, actions[acting]))
            self._last_actions[acting] = actions[acting]
            self._elapsed[acting] += 1
            truncated[acting] = ~terminated[acting] & (self._elapsed[acting] >= self.max_episode_steps)
        observation = self._observe()
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._end(ended, observation, info)
        return observation, rewards, terminated, truncated, info

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """Pictures from above, uint8 (480, 640, 3), one for each environment; None without a render mode."""
        self._check_open()
        if self.render_mode is None:
            return None
        if self._picture is None:
            self._picture = PictureRenderer(self._batch.model, "top")
        return tuple(map(self._picture.render, self._models, self._batch.state))

    def close_extras(self, **kwargs: Any) -> None:
        """Free the renderers."""
        for renderer in (self._depth, self._picture):
            if renderer is not None:
                renderer.close()

    def _restart(self, ids: Ids, given: Sequence[int | None], info: Info) -> None:
        """Begin new episodes: from the queue, else from the seeds given, else from the environments' generators."""
        if not len(ids):
            return
        for i in ids.tolist():
            seed = self._queue.popleft() if self._queue else given[i]
            self._layout_seeds[i] = self._generators[i].integers(*DRAWN_LAYOUTS) if seed is None else seed
        seeds = self._layout_seeds[ids].tolist()
        self._batch.state[ids] = self._default_state
        for name, values in self._fields.items():
            values[ids] = self._default_fields[name]
        self._randomizer.apply(ids, seeds)
        self._begin(ids, seeds)
        if self._depth is not None or self.render_mode is not None:
            for i in ids.tolist():
                self._batch.get_model(i, self._models[i])
        self._elapsed[ids] = 0
        self._last_actions[ids] = 0
        self._has_ended[ids] = False
        self._add(info, ids, {"layout_seed": self._layout_seeds[ids]})

    def _end(self, ids: Ids, observation: Obs, info: Info) -> None:
        """Report the episodes that end; with same-step autoreset begin the next ones and observe these instead."""
        results = {"layout_seed": self._layout_seeds[ids], "steps": self._elapsed[ids], **self._results(ids)}
        if self.autoreset_mode is not AutoresetMode.SAME_STEP:
            self._add(info, ids, results)
            self._has_ended[ids] = True
            return
        final_obs = np.full(self.num_envs, None, dtype=object)
        for i in ids.tolist():
            final_obs[i] = {name: value[i].copy() for name, value in observation.items()}
        final_info: Info = {}
        self._add(final_info, ids, results)
        ended = np.zeros(self.num_envs, bool)
        ended[ids] = True
        info.update(final_obs=final_obs, _final_obs=ended, final_info=final_info, _final_info=ended.copy())
        self._restart(ids, [None] * self.num_envs, info)
        for name, value in self._observe(ids).items():
            observation[name][ids] = value

    def _observe(self, ids: Ids | None = None) -> Obs:
        """The observations of these simulations, or of all."""
        ids = np.arange(self.num_envs) if ids is None else ids
        observation: Obs = {}
        if self._depth is not None:
            frames = [np.empty((len(ids), *self._depth_size), np.float32) for _ in self._cameras]
            self._depth.render([self._models[i] for i in ids], self._batch.state[ids], frames)
            for name, depth in zip(self._cameras, frames, strict=True):
                observation[name] = self._arrived(name, ids, depth)[:, None]
        for name in self._vectors:
            observation[name] = self._vector(name, ids)
        return observation

    def _arriving(self, ids: Ids, actions: NDArray[np.float64]) -> NDArray[np.float64]:
        """The actions that take effect now."""
        if self._coming is None:
            return actions
        steps, delays = self._elapsed[ids], self._randomizer.action_delays[ids]
        arriving = self._coming(ids, steps, actions, np.minimum(steps, delays))
        arriving[steps < delays] = self._idle_action
        return arriving

    def _arrived(self, name: str, ids: Ids, depth: NDArray[np.float32]) -> NDArray[np.float32]:
        """The newest images that have arrived: an episode's first one is there at once."""
        if name not in self._seen:
            return depth
        steps = self._elapsed[ids]
        return self._seen[name](ids, steps, depth, np.minimum(steps, self._randomizer.depth_delays[ids]))

    def _add(self, info: Info, ids: Ids, values: dict[str, NDArray[Any]]) -> None:
        """Put values of some environments into info, with masks, as gymnasium's vector environments do."""
        for name, value in values.items():
            info.setdefault(name, np.zeros((self.num_envs, *value.shape[1:]), value.dtype))[ids] = value
            info.setdefault(f"_{name}", np.zeros(self.num_envs, bool))[ids] = True

    def _spread(self, seed: int | Sequence[int | None] | None) -> list[int | None]:
        """One seed or None for each environment."""
        if seed is None:
            return [None] * self.num_envs
        if isinstance(seed, (int, np.integer)):
            super().reset(seed=int(seed))
            return [int(seed) + i for i in range(self.num_envs)]
        if len(seed) != self.num_envs:
            raise ValueError(f"a list of seeds must have one for each of {self.num_envs} environments, got {len(seed)}")
        return [None if s is None else _checked_seeds([s])[0] for s in seed]

    def _masked(self, mask: Any) -> Ids:
        if mask is None:
            return np.arange(self.num_envs)
        mask = np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool or not mask.any():
            raise ValueError(f"reset_mask must be ({self.num_envs},) bool with a True in it, got {mask.dtype} {mask!r}")
        if not self._generators and not mask.all():
            raise gymnasium.error.ResetNeeded("the first reset() must be of all environments, without reset_mask")
        return np.flatnonzero(mask)

    def _checked_actions(self, actions: Any) -> NDArray[np.float64]:
        actions = np.asarray(actions, np.float64)
        if actions.shape != self.action_space.shape:
            raise ValueError(f"actions must have shape {self.action_space.shape}, got {actions.shape}")
        bad = ~np.isfinite(actions).reshape(self.num_envs, -1).all(axis=1)
        if bad.any():
            raise ValueError(f"actions of environments {np.flatnonzero(bad).tolist()} are not finite")
        space = self.single_action_space
        assert isinstance(space, spaces.Box)
        return np.clip(actions, space.low, space.high)

    def _check_open(self) -> None:
        if self.closed:
            raise gymnasium.error.ClosedEnvironmentError("the environment has been closed")


def configured(kind: type[Config], config: Config | None, settings: Mapping[str, Any]) -> Config:
    """A task's configuration, with some of its fields set otherwise.

    Args:
        kind: The task's frozen dataclass.
        config: What to begin with; None for the defaults.
        settings: Values by field.

    Raises:
        TypeError: A setting that does not exist.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    for name in settings:
        if name not in names:
            raise TypeError(f"unknown setting {name!r}{hint(name, names)}")
    return dataclasses.replace(config or kind(), **settings)


def check_positive(config: Any, *names: str) -> None:
    """Raises a ValueError for the first of these fields of a configuration that is not above 0."""
    for name in names:
        value = getattr(config, name)
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")


def whole_substeps(control_step_s: float, substep_s: float) -> int:
    """How many times the physics goes on in a control step.

    Args:
        control_step_s: Seconds between two actions.
        substep_s: Seconds that the physics goes on at a time.

    Raises:
        ValueError: Where it is no whole number.
    """
    number = control_step_s / substep_s
    if round(number) < 1 or abs(number - round(number)) > 1e-4:
        possible = [f"{k * substep_s:g}" for k in (int(number), int(number) + 1) if k > 0]
        raise ValueError(
            f"control_step_s must be a whole multiple of {substep_s:g} s, which the physics goes on at a time, got "
            f"{control_step_s:g}: pass {' or '.join(possible)}."
        )
    return round(number)


def failure_modes(success: NDArray[np.bool_], modes: Mapping[str, NDArray[np.bool_]]) -> NDArray[np.str_]:
    """Say of each episode how it failed.

    Args:
        success: (n,) which succeeded.
        modes: Failures by name, (n,) each; of several the first counts.

    Returns:
        (n,) str: "" after a success, else the name of the failure, "timeout" where there is none.
    """
    return np.select([success, *modes.values()], ["", *modes], "timeout")


class MujocoEnv(gymnasium.Env[Obs, NDArray[Any]]):
    """One environment of a task with gymnasium's single interface, on its vector environment of size one.

    `gymnasium.make(id, max_episode_steps=n)` sets the task's own limit, as `gymnasium.make_vec` does: a larger one
    lengthens episodes, and the infos of one that is cut off say so.

    Args:
        config, layout_seeds, render_mode, **settings: See the task's vector environment.
    """

    metadata: dict[str, Any] = MujocoVectorEnv.metadata
    vector_env: ClassVar[type[Any]]
    """The task's vector environment."""

    def __init__(
        self,
        config: Any = None,
        *,
        layout_seeds: Iterable[int] = (),
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        limit = _limit_of_make(sys._getframe(1))
        if limit is not None:
            settings["max_episode_steps"] = limit
        self.vector: MujocoVectorEnv = self.vector_env(
            1,
            config,
            autoreset_mode=AutoresetMode.DISABLED,
            layout_seeds=layout_seeds,
            render_mode=render_mode,
            **settings,
        )
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space
        self.render_mode = self.vector.render_mode

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Obs, Info]:
        """Begin an episode; options as in the vector environment."""
        super().reset(seed=seed)
        observation, info = self.vector.reset(seed=seed, options=options)
        return _only(observation), _only_info(info)

    def step(self, action: NDArray[Any]) -> tuple[Obs, float, bool, bool, Info]:
        """Take one control step."""
        observation, reward, terminated, truncated, info = self.vector.step(np.asarray(action)[None])
        return _only(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), _only_info(info)

    def render(self) -> Any:
        """A picture from above, uint8 (480, 640, 3); None without a render mode."""
        pictures = self.vector.render()
        return pictures[0] if pictures else None

    def close(self) -> None:
        """Free the renderers."""
        self.vector.close()


def _limit_of_make(caller: FrameType) -> int | None:
    """The `max_episode_steps` of the `gymnasium.make` that makes an environment; None where nothing or -1 was said.

    gymnasium keeps this argument from the environment and puts a `TimeLimit` around it, which can cut episodes off
    earlier but not later, and whose cut the environment never learns of. It is read where gymnasium has it.
    """
    if caller.f_code is not gymnasium.make.__code__:
        return None
    limit, spec = caller.f_locals.get("max_episode_steps"), caller.f_locals.get("env_spec")
    if limit is None and spec is not None:
        limit = spec.max_episode_steps
    return None if limit == -1 else limit


def _only(observation: Obs) -> Obs:
    return {name: value[0] for name, value in observation.items()}


def _only_info(info: Info) -> Info:
    return {name: value[0].tolist() for name, value in info.items() if not name.startswith("_")}


def _batch_class() -> Any:
    """MuJoCo's own; imported with the first environment, as Isaac Lab's MuJoCo is older, and settings need none."""
    try:
        from mujoco.batch import Batch
    except ImportError as error:
        raise ImportError(
            f"the MuJoCo tasks need mujoco>=3.17, but {mujoco.__version__} is installed, which Isaac Lab asks for: run "
            "them in a Python environment of their own, with pip install 'defm-rl[experiments]'"
        ) from error
    return Batch


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        raise ValueError(f"unknown autoreset_mode {mode!r}{hint(mode, [m.value for m in AutoresetMode])}") from None


def _checked_size(size: Sequence[int]) -> tuple[int, int]:
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"depth_size must be (height, width) in pixels, got {size!r}")
    return size[0], size[1]


def _checked_observations(observations: Sequence[str], offered: Iterable[str]) -> list[str]:
    """The names chosen, in the order of those offered."""
    if isinstance(observations, str) or not observations:
        raise ValueError(f"observations must be a tuple of some of {tuple(offered)}, got {observations!r}")
    for name in observations:
        if name not in offered:
            raise ValueError(f"unknown observation {name!r}{hint(name, offered)}")
    return [name for name in offered if name in observations]


def _checked_seeds(seeds: Iterable[int]) -> list[int]:
    seeds = [int(seed) for seed in seeds]
    if any(seed < 0 for seed in seeds):
        raise ValueError(f"seeds must not be negative, got {min(seeds)}")
    return seeds
