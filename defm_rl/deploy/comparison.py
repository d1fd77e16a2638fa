"""`compare`: any two of a run and its exported files on the same frames, and the stage at which they part."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defm_rl.deploy import onnx_files
from defm_rl.deploy.exporting import STEPS, TOLERANCE
from defm_rl.deploy.policies import Exportable, ExportError, Recording
from defm_rl.deploy.runtime.contract import CONTRACT_KEY, Contract, DepthInput, sealed
from defm_rl.depth import Unit
from defm_rl.recordings import load_recording

ACTION = "action"
_ENVS = 4  # observations at once, where they do not come from a run

Look = Callable[[Mapping[str, NDArray[Any]]], dict[str, NDArray[Any]]]
"""From a batch of observations to what each stage makes of it, by name; the action is the last."""


@dataclass(frozen=True)
class Difference:
    """How far two policies are apart after one stage.

    Attributes:
        stage: "features.NAME", "standardized.NAME", "output" or "action".
        largest: Largest absolute difference.
        mean: Mean absolute difference.
        size: Mean absolute value, of the first.
    """

    stage: str
    largest: float
    mean: float
    size: float

    @property
    def parts(self) -> bool:
        """Whether the two part here."""
        return not self.largest <= TOLERANCE * max(1.0, self.size)


@dataclass
class _Side:
    look: Look
    stages: list[str]
    contract: Contract | None
    whole: Exportable | None = None


def compare(
    first: str | Path, second: str | Path, frames: Recording | None = None, *, adapted: str | Path | None = None
) -> list[Difference]:
    """Compares two policies stage by stage, on the same frames.

    Args:
        first: A run's folder or an exported file.
        second: Another one.
        frames: See `export`. Default: recorded by a run among the two; without one, made up of the contract.
        adapted: See `export`: of the run among the two, of the second where both are runs.

    Returns:
        A difference for each stage that both show, in their order; the first whose `parts` is true is where they part.
        ONNX files show all stages, other formats the action alone.

    Raises:
        ExportError: Where the two take different observations.
        ValueError: Where a file is no export, or damaged; or there are adapted weights and no run.
    """
    paths = [Path(first), Path(second)]
    run = next((path for path in reversed(paths) if path.is_dir()), None)
    if adapted is not None and run is None:
        raise ValueError(f"adapted={adapted} goes with a run, and {first} and {second} are files.")
    sides = [_side(path, Path(adapted) if adapted is not None and path is run else None) for path in paths]
    described = [_inputs(side) for side in sides]
    if described[0] != described[1]:
        raise ExportError(f"{first} takes {described[0]}, and {second} takes {described[1]}: they cannot be compared.")
    if frames is None:
        frames = _frames(sides)
    collected: list[dict[str, list[NDArray[Any]]]] = [{}, {}]
    for observations in frames:
        for side, values in zip(sides, collected, strict=True):
            for name, array in side.look(observations).items():
                values.setdefault(name, []).append(np.asarray(array, np.float64))
    names = [name for name in collected[0] if name in collected[1]]
    return [_difference(name, *(np.concatenate(values[name]) for values in collected)) for name in names]


def _difference(name: str, a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    apart = np.abs(a - b.reshape(a.shape))
    return Difference(name, float(apart.max()), float(apart.mean()), float(np.abs(a).mean()))


def _side(path: Path, adapted: Path | None = None) -> _Side:
    if path.is_dir():
        return _of_run(path, adapted)
    if not path.exists():
        raise ExportError(f"There is no run and no file {path}.")
    if path.suffix == ".onnx":
        return _of_onnx(path)
    return _of_torch(path)


def _of_run(folder: Path, adapted: Path | None) -> _Side:
    from defm_rl.deploy.runs import exportable_run

    whole, facts = exportable_run(folder, adapted)
    graph = whole.graph()
    graph.shows_stages = True
    memory: list[torch.Tensor] | None = None

    def look(observations: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        nonlocal memory
        inputs = whole.inputs(observations)
        with torch.no_grad():
            outputs = graph(*inputs, *(whole.zeros(len(inputs[0])) if memory is None else memory))
        memory = list(outputs[1 : 1 + len(whole.memory)])
        shown = dict(zip(graph.stage_names, outputs[1 + len(whole.memory) :], strict=True))
        return {**{name: x.numpy() for name, x in shown.items()}, ACTION: np.asarray(outputs[0])}

    return _Side(look, [], whole.contract(facts, "float32"), whole)


def _of_onnx(path: Path) -> _Side:
    sealed(path)
    contract = Contract.from_json(onnx_files.metadata(path)[CONTRACT_KEY])
    stages = [
        *(f"{stage}.{wanted.name}" for stage in ("features", "standardized") for wanted in contract.inputs),
        "output",
    ]
    session = onnx_files.Session(onnx_files.with_outputs(path, stages))
    return _Side(_with_memory(contract, session), stages, contract)


def _of_torch(path: Path) -> _Side:
    if path.suffix == ".pt2":
        extra: dict[str, Any] = {CONTRACT_KEY: ""}
        module: Any = torch.export.load(path, extra_files=extra).module()
    else:
        extra = {CONTRACT_KEY: ""}
        module = torch.jit.load(path, _extra_files=extra)
    if not extra[CONTRACT_KEY]:
        raise ExportError(f"{path} holds no contract: it was not made by `defm-rl export`.")
    text = extra[CONTRACT_KEY]
    contract = Contract.from_json(text.decode() if isinstance(text, bytes) else text)
    names = [ACTION, *(f"{part.name}_out" for part in contract.memory)]

    def step(inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            outputs = module(*(torch.from_numpy(np.ascontiguousarray(x)) for x in inputs.values()))
        return dict(zip(names, (x.numpy() for x in outputs), strict=True))

    return _Side(_with_memory(contract, step), [], contract)


def _with_memory(contract: Contract, step: Look) -> Look:
    memory: dict[str, NDArray[Any]] = {}

    def look(observations: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        inputs = {x.name: np.ascontiguousarray(observations[x.name], dtype=x.dtype) for x in contract.inputs}
        batch = len(next(iter(inputs.values())))
        for part in contract.memory:
            if part.name not in memory:
                memory[part.name] = np.zeros((part.shape[0], batch, part.shape[1]), np.float32)
        outputs = step({**inputs, **{f"{name}_in": x for name, x in memory.items()}})
        for name in memory:
            memory[name] = outputs.pop(f"{name}_out")
        action = outputs.pop(ACTION)
        return {**outputs, ACTION: action}

    return look


def _inputs(side: _Side) -> str:
    assert side.contract is not None
    return ", ".join(f"{x.name} {tuple(x.shape)}" for x in side.contract.inputs)


def _frames(sides: list[_Side]) -> Recording:
    for side in sides:
        if side.whole is not None and side.whole.record is not None:
            return side.whole.record(STEPS)
    contract = sides[0].contract
    assert contract is not None
    rng = np.random.default_rng(0)
    return [{x.name: _made_up(x, rng) for x in contract.inputs} for _ in range(STEPS)]


def recorded_frames(path: str | Path, source: str | Path, *, unit: Unit | None = None) -> Recording:
    """Recorded depth as a policy's observations; what it takes beside depth is made up, the same at every call.

    Args:
        path: The policy: a run's folder or an exported file.
        source: See `defm_rl.recordings.find_parts`. Every camera of the policy is shown the same frames.
        unit: See `defm_rl.recordings.load_recording`.

    Raises:
        ExportError: Where the policy sees no depth.
        RecordingError: Where there is none that can be read.
    """
    contract = _side(Path(path)).contract
    assert contract is not None
    rng = np.random.default_rng(0)
    columns: dict[str, NDArray[Any]] = {}
    for wanted in contract.inputs:
        if not isinstance(wanted, DepthInput):
            columns[wanted.name] = np.stack([_made_up(wanted, rng) for _ in range(STEPS)])
            continue
        size = (wanted.height, wanted.width)
        depth = load_recording(source, size, unit=unit, limit=STEPS * _ENVS).frames / wanted.metres_per_count
        stacked = np.arange(STEPS * _ENVS)[:, None] + np.arange(wanted.frames)
        images = depth[stacked % len(depth)].astype(np.float32)
        if wanted.channels_last:
            images = np.moveaxis(images, 1, -1)
        columns[wanted.name] = images.reshape(STEPS, _ENVS, *wanted.shape)
    if not any(isinstance(wanted, DepthInput) for wanted in contract.inputs):
        raise ExportError(f"{path} sees no depth: recorded depth says nothing about it.")
    return [{name: steps[index] for name, steps in columns.items()} for index in range(STEPS)]


def _made_up(wanted: Any, rng: np.random.Generator) -> NDArray[Any]:
    shape = (_ENVS, *wanted.shape)
    if isinstance(wanted, DepthInput):
        return (rng.uniform(0.3, 6.0, shape) / wanted.metres_per_count).astype(np.float32)
    if wanted.dtype == "int64":
        return np.zeros(shape, np.int64)
    return rng.uniform(-1, 1, shape).astype(np.float32)
