"""An exported policy that acts: NumPy in, NumPy out, and its contract kept."""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from defm_rl.deploy.runtime.contract import CONTRACT_KEY, Contract, VectorInput, sealed
from defm_rl.deploy.runtime.frames import Camera, DepthIntake, FrameError, FrameWatch
from defm_rl.deploy.runtime.record import Latency, Record

_logger = logging.getLogger(__name__)

Provider = str | tuple[str, Mapping[str, Any]]
"""One of ONNX Runtime's execution providers, by its name alone or with its options."""

_PERIODS = 10  # steps whose median says at which rate the policy runs


class Policy:
    """A policy from a file that `defm-rl export` wrote.

    ```python
    policy = Policy("policy.onnx", camera=Camera(480, 640, fx, fy, cx, cy), depth_unit="mm")
    policy.reset()
    while True:
        action = policy.act(depth=camera.frame(), state=robot.state())
    ```

    It holds what it is given against the contract in the file, and raises a `ValueError` that says what came where it
    does not fit. Faults of a camera (`FrameError`: an empty, stuck or stale frame) can be answered by a safe action
    instead.

    Args:
        path: The file.
        camera: The camera that sends frames, or one for each depth observation by name, where it is not that of the
            training: its frames are cropped and sampled to the training's field of view and size.
        depth_unit: What it sends: "m", "mm", or metres per count as a number, or one for each by name. Default: what
            the task of the training gave, a z-buffer too.
        outside: Where a camera sees less than that of the training: "refuse", or "holes" there.
        clock: Says the time in seconds. None: no time passes, as in a simulator, and age, period and stuck frames are
            not looked at.
        period_tolerance: By which share the time between steps may differ from that of the training, in the median of
            10 steps. A policy with a memory refuses to go on beyond it; another one warns once.
        max_age_s: How old a frame with a time stamp may be. Default: two steps beyond the latency of the training.
        stuck_after_s: For how long a frame may stay the same to the last bit.
        min_valid_share: Of a frame's pixels; one with fewer is empty. By default one without any is.
        deadline_s: What a step may take; the default is the time between two of them. Late steps are counted, and the
            first one is warned of.
        safe_action: Returned at a camera's fault, in the place of the error.
        record_s: Seconds that `record` holds.
        providers: ONNX Runtime's execution providers: their names, or (name, options). Default: CUDA where the
            installed ONNX Runtime has it, else CPU.
        threads: That compute one step.

    Attributes:
        contract: What the file says of itself.
        latency: How long steps took, see `Latency`.
        record: The last seconds, see `Record`; `record.write(path)` keeps them.
        faults: How many frames were unusable.

    Raises:
        FileNotFoundError: Where there is no file.
        ValueError: Where the file is no export, was edited or cut off, or an argument does not fit.
        ImportError: Where ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        camera: Camera | Mapping[str, Camera] | None = None,
        depth_unit: str | float | Mapping[str, str | float] | None = None,
        outside: str = "refuse",
        clock: Callable[[], float] | None = time.monotonic,
        period_tolerance: float = 0.2,
        max_age_s: float | None = None,
        stuck_after_s: float | None = 1.0,
        min_valid_share: float = 1e-9,
        deadline_s: float | None = None,
        safe_action: ArrayLike | None = None,
        record_s: float = 10.0,
        providers: Sequence[Provider] | None = None,
        threads: int = 1,
    ) -> None:
        self._session = _session(Path(path), providers, threads)
        self.contract = contract = _contract(self._session, Path(path))
        step_s = contract.step_s
        if max_age_s is None and step_s is not None:
            max_age_s = 2 * step_s + float(contract.sensor.get("latency_s", (0.0, 0.0))[1])
        self._clock = clock
        self._period_tolerance = period_tolerance
        self._intakes, self._watches = {}, {}
        for wanted in contract.depth:
            unit = _for(wanted.name, depth_unit, contract)
            self._intakes[wanted.name] = DepthIntake(wanted, unit, _for(wanted.name, camera, contract), outside)
            self._watches[wanted.name] = FrameWatch(wanted.name, min_valid_share, stuck_after_s, max_age_s)
        self._safe_action = None if safe_action is None else self._checked_safe_action(safe_action)
        self.latency = Latency(step_s if deadline_s is None else deadline_s)
        self.record = Record(max(1, round(record_s / (step_s or 0.1))))
        self.faults = 0
        self._warned: set[str] = set()
        self.reset()

    def reset(self, dones: NDArray[np.bool_] | None = None) -> None:
        """Begins an episode: forgets all, or with `dones`, (B,) bool, what was remembered of those of a batch."""
        if dones is not None and self._memory:
            for values in self._memory.values():
                values[:, dones] = 0
        if dones is None:
            self._memory: dict[str, NDArray[np.float32]] = {}
            self._times: deque[float] = deque(maxlen=_PERIODS + 1)
            for watch in self._watches.values():
                watch.reset()

    def act(self, *, stamp_s: float | None = None, **observations: Any) -> NDArray[Any]:
        """The action for what is observed now.

        Args:
            stamp_s: When the frames were taken, by the policy's clock.
            **observations: By the names in the contract. Depth is (H, W), (1, H, W) or a batch (B, H, W),
                (B, 1, H, W), stacked frames as in the contract; vectors are (k,) or (B, k). All single or all batches.

        Returns:
            The action, as the environment of the training takes it, clipped to its bounds; (A,), or (B, A) of a batch.

        Raises:
            FrameError: Where a frame is empty, stuck or stale and there is no safe action.
            ValueError: Where anything else is not as the contract says, or the result is not finite.
        """
        started = time.perf_counter()
        now_s = None if self._clock is None else self._clock()
        inputs, is_batch = self._inputs(observations)
        self._check_period(now_s)
        batch = len(next(iter(inputs.values())))
        try:
            for name, watch in self._watches.items():
                watch.watch(inputs[name], now_s, stamp_s)
        except FrameError as error:
            self.faults += 1
            if self._safe_action is None:
                raise
            self._warn("fault", "%s The safe action takes the place of the policy's.", error)
            action = np.repeat(self._safe_action[None], batch, axis=0)
        else:
            action = self._run(inputs, batch)
        seconds = time.perf_counter() - started
        if not self.latency.add(seconds):
            self._warn(
                "late", "A step took %.1f ms, its deadline is %.1f.", seconds * 1e3, self.latency.deadline_s * 1e3
            )
        time_s = math.nan if now_s is None else now_s
        self.record.add(time_s=time_s, latency_s=seconds, action=action, **inputs)
        return action if is_batch else action[0]

    def command(self, action: NDArray[Any]) -> NDArray[Any]:
        """An action in physical units, as the environment of the training understood it: the contract's `units`.

        Raises:
            ValueError: Where the contract does not say how actions are scaled.
        """
        described = self.contract.action
        if not described.scale:
            raise ValueError("The policy's file does not say how its actions are scaled: see where it was trained.")
        scale, offset = (np.reshape(numbers, described.shape) for numbers in (described.scale, described.offset))
        command: NDArray[Any] = offset + scale * action
        return command

    def _inputs(self, observations: Mapping[str, Any]) -> tuple[dict[str, NDArray[Any]], bool]:
        names = [wanted.name for wanted in self.contract.inputs]
        missing, unknown = set(names) - set(observations), set(observations) - set(names)
        if missing or unknown:
            raise ValueError(
                f"The policy takes {', '.join(names)}; got {', '.join(observations) or 'nothing'}"
                f"{'; missing: ' + ', '.join(sorted(missing)) if missing else ''}."
            )
        inputs: dict[str, NDArray[Any]] = {}
        batched: dict[str, bool | None] = {}
        for wanted in self.contract.inputs:
            given = observations[wanted.name]
            if isinstance(wanted, VectorInput):
                inputs[wanted.name], batched[wanted.name] = _vector(wanted, given)
            else:
                inputs[wanted.name], batched[wanted.name] = self._intakes[wanted.name](given)
        sizes = {name: len(x) for name, x in inputs.items()}
        told = {is_batch for is_batch in batched.values() if is_batch is not None}
        if len(told) > 1 or len(set(sizes.values())) > 1:
            described = ", ".join(f"{name}: {'one' if batched[name] is False else sizes[name]}" for name in names)
            raise ValueError(f"Observations must be all single or batches of one size; got {described}.")
        return inputs, True in told

    def _run(self, inputs: dict[str, NDArray[Any]], batch: int) -> NDArray[Any]:
        if self.contract.memory and not self._memory:
            for part in self.contract.memory:
                self._memory[part.name] = np.zeros((part.shape[0], batch, part.shape[1]), np.float32)
        for name, values in self._memory.items():
            if values.shape[1] != batch:
                raise ValueError(
                    f"The policy remembers {values.shape[1]} episodes and got observations of {batch}: call reset() "
                    "before the number changes."
                )
            inputs = {**inputs, f"{name}_in": values}
        outputs = ["action", *(f"{name}_out" for name in self._memory)]
        action, *after = self._session.run(outputs, inputs)
        for name, values in zip(self._memory, after, strict=True):
            self._memory[name] = values
        if not all(np.isfinite(values).all() for values in (action, *after)):
            self._memory = {}
            raise ValueError(
                "The policy's output is not finite. Its inputs were: "
                + ", ".join(f"{name} from {np.nanmin(x):.4g} to {np.nanmax(x):.4g}" for name, x in inputs.items())
            )
        result: NDArray[Any] = action
        return result

    def _check_period(self, now_s: float | None) -> None:
        trained_s = self.contract.step_s
        if now_s is None or trained_s is None:
            return
        self._times.append(now_s)
        if len(self._times) <= _PERIODS:
            return
        period_s = float(np.median(np.diff(np.array(self._times))))
        if abs(period_s / trained_s - 1) <= self._period_tolerance:
            return
        message = f"The policy runs every {period_s * 1e3:.1f} ms and was trained at {trained_s * 1e3:.1f} ms a step"
        if self.contract.memory:
            raise ValueError(
                f"{message}: what it remembers means nothing at another rate. Call act() at that rate, or in a "
                "simulator make the policy with clock=None."
            )
        self._warn("period", "%s.", message)

    def _warn(self, kind: str, message: str, *arguments: Any) -> None:
        """Once for each kind: a loop must not drown its own log."""
        if kind not in self._warned:
            self._warned.add(kind)
            _logger.warning(message, *arguments)

    def _checked_safe_action(self, given: ArrayLike) -> NDArray[Any]:
        described = self.contract.action
        action = _of_dtype("safe_action", given, described.shape, described.dtype)
        if action.shape != tuple(described.shape) or not np.isfinite(action).all():
            raise ValueError(f"safe_action must be {described.shape} finite numbers; got {given!r}.")
        low, high = (np.asarray(bound, action.dtype) for bound in (described.low, described.high))  # as the graph's
        if described.low and ((action.ravel() < low).any() or (action.ravel() > high).any()):
            raise ValueError(f"safe_action must lie from {described.low} to {described.high}; got {given!r}.")
        return action


def _vector(wanted: VectorInput, given: Any) -> tuple[NDArray[Any], bool]:
    values = _of_dtype(wanted.name, given, wanted.shape, wanted.dtype)
    is_batch = values.ndim == len(wanted.shape) + 1
    if values.shape[is_batch:] != tuple(wanted.shape) or (is_batch and not len(values)):
        order = f", in this order: {', '.join(wanted.entries)}" if wanted.entries else ""
        raise ValueError(f"{wanted.name}: expected {wanted.shape}, or a batch of them; got {values.shape}{order}.")
    if not np.isfinite(values).all():
        index = int(np.argwhere(~np.isfinite(values.reshape(-1)))[0, 0]) % max(1, math.prod(wanted.shape))
        name = f" ({wanted.entries[index]})" if wanted.entries else ""
        raise ValueError(f"{wanted.name}: entry {index}{name} is {values.reshape(-1)[index]}: all must be finite.")
    return (values if is_batch else values[None]), is_batch


def _of_dtype(name: str, given: Any, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    try:
        with np.errstate(invalid="ignore"):
            values = np.asarray(given, dtype)
    except (OverflowError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected {shape} numbers ({dtype}): {error}") from error
    if values.dtype.kind == "i" and np.any(values != np.asarray(given)):
        raise ValueError(f"{name}: expected {shape} whole numbers ({dtype}); got {given!r}.")
    return values


def _for(name: str, setting: Any, contract: Contract) -> Any:
    """The setting of one camera: one for all, or by name."""
    if not isinstance(setting, Mapping):
        return setting
    known = [wanted.name for wanted in contract.depth]
    unknown = set(setting) - set(known)
    if unknown:
        raise ValueError(f"The policy's cameras are {', '.join(known)}; got {', '.join(sorted(unknown))}.")
    return setting.get(name)


def _session(path: Path, providers: Sequence[Provider] | None, threads: int) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"There is no file {path}.")
    content = sealed(path)
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "Exported policies run on ONNX Runtime: pip install onnxruntime (or onnxruntime-gpu)."
        ) from error
    available = onnxruntime.get_available_providers()
    if providers is None:
        providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
    chosen = dict((given, {}) if isinstance(given, str) else given for given in providers)
    missing = [name for name in chosen if name not in available]
    if missing:
        raise ValueError(
            f"The installed ONNX Runtime has no {', '.join(missing)}; it has {', '.join(available)}. TensorRT and CUDA "
            "come with onnxruntime-gpu, OpenVINO with onnxruntime-openvino."
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    if "OpenVINOExecutionProvider" in chosen:  # which has threads of its own
        chosen["OpenVINOExecutionProvider"] = {"num_of_threads": str(threads), **chosen["OpenVINOExecutionProvider"]}
    try:
        session = onnxruntime.InferenceSession(content, options, providers=list(chosen.items()))
    except Exception as error:  # ONNX Runtime's have no common base but this one
        raise ValueError(f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: {error}") from error
    unused = [name for name in chosen if name not in session.get_providers()]
    if unused:
        _logger.warning("%s cannot be used here: %s runs the policy.", ", ".join(unused), session.get_providers()[0])
    return session


def _contract(session: Any, path: Path) -> Contract:
    metadata = session.get_modelmeta().custom_metadata_map
    if CONTRACT_KEY not in metadata:
        raise ValueError(f"{path} holds no contract: it was not made by `defm-rl export`.")
    try:
        return Contract.from_json(metadata[CONTRACT_KEY])
    except ValueError as error:
        raise ValueError(f"{path} cannot be used: {error}.") from error
