"""`export`: a whole policy into one file, checked against the policy it was made of before it is put in place."""

import copy
import dataclasses
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.deploy import onnx_files
from defm_rl.deploy.graph import WholePolicy, halve
from defm_rl.deploy.policies import Exportable, ExportError, Facts, Recording
from defm_rl.deploy.runtime.contract import CONTRACT_KEY, Contract

_logger = logging.getLogger(__name__)

FORMATS = {"onnx": ".onnx", "exported_program": ".pt2", "torchscript": ".pt"}
PRECISIONS = ("float32", "float16", "int8")
TOLERANCE = 1e-4
"""How far a float32 file's actions may lie from the policy's: of 1, or of the action where that is larger."""

STEPS = 16
"""Steps that are recorded of every environment, where it has to be done here."""


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        path: The file.
        contract: What it says of itself.
    """

    path: Path
    contract: Contract


def export(
    policy: Any,
    path: str | Path,
    format: str = "onnx",  # noqa: A002  what everybody calls it
    precision: str = "float32",
    *,
    env: Any = None,
    frames: Recording | None = None,
    facts: Facts | None = None,
    adapted: str | Path | None = None,
) -> Exported:
    """Writes a whole policy, depth in and actions out, into one file, and its contract beside it as YAML.

    The file is checked against the policy on frames of its task before it is put in place.

    Args:
        policy: A run's folder; a model of Stable-Baselines3; a runner of RSL-RL, or a `DefmModel` with `env`.
        path: The file.
        format: "onnx", which `Policy` runs; "exported_program" (`torch.export.load`) or "torchscript".
        precision: "float32"; "float16", in which the encoder computes; "int8", which is calibrated on the frames, of
            ONNX only.
        env: The environments, wrapped as in training, where the model does not know them.
        frames: Observations as the environment gives them, batches (B, ...) by name, step after step. Default: recorded
            in `env` with the policy acting, which ends the episodes under way there; of a run, in environments of
            their own.
        facts: What the policy cannot say of itself; of a run it is known.
        adapted: Of a run: weights of `defm-rl adapt` that take the place of its encoder's own.

    Returns:
        The file and its contract.

    Raises:
        ExportError: Where the policy cannot be exported, or the file does not do what the policy does; nothing is
            written then.
        ConfigError: Where the adapted weights are not of the run's encoder.
        ValueError: For an unknown format or precision; or adapted weights and no run.
    """
    path = Path(path)
    _check(format, precision)
    whole, facts = _exportable(policy, env, facts, None if adapted is None else Path(adapted))
    if frames is None:
        if whole.record is None:
            raise ExportError("There are no environments to record frames in: pass frames=, or env=.")
        frames = whole.record(STEPS)
    return write(whole, path, format, precision, frames, facts)


def export_encoder(
    encoder: Any,
    path: str | Path,
    format: str = "onnx",  # noqa: A002
    precision: str = "float32",
    **settings: Any,
) -> Exported:
    """Writes an encoder alone: depth in metres in, features out.

    Args:
        encoder: A `DepthEncoder`, or a published model's name to make one of, with `settings`. It has to know the
            size of the images: `image_size=(height, width)`.
        path: See `export`.
        format: See `export`.
        precision: See `export`; int8 needs frames, which an encoder alone does not have.
        **settings: Of a new `DepthEncoder`.

    Returns:
        The file and its contract.

    Raises:
        ExportError: Where the size of the images is not known, or the file does not do what the encoder does.
        ValueError: For an unknown format or precision, or int8.
    """
    from defm_rl.deploy.encoders import exportable_encoder, made_up_frames

    _check(format, precision)
    if precision == "int8":
        raise ValueError("int8 is calibrated on frames of a task: export a policy, whose task there is.")
    whole, facts = exportable_encoder(encoder, settings)
    return write(whole, Path(path), format, precision, made_up_frames(whole), facts)


def write(
    whole: Exportable,
    path: Path,
    kind: str,
    precision: str,
    frames: Recording,
    facts: Facts,
) -> Exported:
    """Writes and checks; arguments as for `export`."""
    if len(frames) == 0:
        raise ExportError("There are no frames to hold the file against.")
    contract = whole.contract(facts, precision)
    graph = whole.graph()
    if precision == "float16":
        halve(graph)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        made = Path(folder) / path.name
        _write_graph(whole, graph, made, kind, frames)
        if precision == "int8":
            onnx_files.quantize(made, list(_inputs_of(whole, graph, frames)))
        checked = check(whole, run_file(whole, made, kind), frames)
        if precision == "float32" and whole.in_float32:
            _refuse_errors(checked)
        contract = dataclasses.replace(contract, checked=checked)
        _put_in_place(made, path, kind, contract)
    path.with_suffix(".yaml").write_text(_as_yaml(contract))
    _logger.debug("%s: %s", path, checked)
    return Exported(path, contract)


def check(whole: Exportable, run: "Run", frames: Recording) -> dict[str, Any]:
    """Checks that what runs a file matches the policy, on frames in their order.

    Returns:
        How many frames there were, and the largest and mean difference of their actions; of choices, the share that
        differed.
    """
    whole.reset()
    run.reset()
    differences = []
    for observations in frames:
        expected, got = np.asarray(whole.act(observations)), run(observations)
        got = got.reshape(expected.shape)
        if expected.dtype.kind in "iu":
            differences.append((got != expected).reshape(len(expected), -1).any(axis=1))
        else:
            differences.append(np.abs(got - expected) / np.maximum(1, np.abs(expected)))
    whole.reset()
    all_of_them = np.concatenate([x.reshape(len(x), -1) for x in differences])
    return {
        "frames": len(all_of_them),
        "largest_difference": float(all_of_them.max()),
        "mean_difference": float(all_of_them.mean()),
    }


class Run:
    """A file on observations by name, with its memory.

    Args:
        whole: What the file was made of.
        step: From the graph's inputs to its outputs: the action, then the memory.
    """

    def __init__(self, whole: Exportable, step: Any) -> None:
        self._whole, self._step = whole, step
        self.reset()

    def reset(self) -> None:
        """Begins new episodes."""
        self._memory: list[Tensor] | None = None

    def __call__(self, observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Actions of a batch of observations."""
        inputs = self._whole.inputs(observations)
        memory = self._whole.zeros(len(inputs[0])) if self._memory is None else self._memory
        action, *self._memory = self._step(*inputs, *memory)
        result: NDArray[Any] = action.detach().numpy()
        return result


def run_file(whole: Exportable, path: Path, kind: str) -> Run:
    """What runs an exported file of any format."""
    if kind == "exported_program":
        return Run(whole, torch.export.load(path).module())
    if kind == "torchscript":
        return Run(whole, torch.jit.load(path))
    session = onnx_files.Session(path)
    names = [*whole.names, *(f"{name}_in" for name, _ in whole.memory)]

    def step(*inputs: Tensor) -> list[Tensor]:
        outputs = session({name: x.numpy() for name, x in zip(names, inputs, strict=True)})
        return [torch.from_numpy(outputs[name]) for name in ["action", *(f"{n}_out" for n, _ in whole.memory)]]

    return Run(whole, step)


def _exportable(policy: Any, env: Any, facts: Facts | None, adapted: Path | None) -> tuple[Exportable, Facts]:
    """What is to be exported, found by what it is; libraries that are not installed made none of it."""
    if isinstance(policy, str | Path):
        from defm_rl.deploy.runs import exportable_run

        whole, known = exportable_run(Path(policy), adapted)
        return whole, known if facts is None else facts
    if adapted is not None:
        raise ValueError(
            f"adapted={adapted} goes with a run's folder. A model of your own is exported as it is: give its encoder "
            "the adapted weights, DepthEncoder(NAME, weights=FILE)."
        )
    facts = Facts() if facts is None else facts
    if _is_a(policy, "stable_baselines3.common.base_class", "BaseAlgorithm"):
        from defm_rl.deploy import sb3

        return sb3.exportable(policy, env), facts
    if _is_a(policy, "rsl_rl.runners.on_policy_runner", "OnPolicyRunner"):
        policy, env = policy.alg.get_policy(), policy.env if env is None else env
    if _is_a(policy, "defm_rl.rsl_rl.model", "DefmModel"):
        from defm_rl.deploy import rsl_rl

        return rsl_rl.exportable(policy, env), facts
    raise ExportError(
        f"A {type(policy).__name__} cannot be exported: pass a run's folder, a model of Stable-Baselines3, a runner of "
        "RSL-RL, or a DefmModel with env=."
    )


def _is_a(value: Any, module: str, name: str) -> bool:
    return any(kind.__module__ == module and kind.__name__ == name for kind in type(value).__mro__)


def _check(kind: str, precision: str) -> None:
    for name, value, known in (("format", kind, FORMATS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}; got {value!r}.")
    if precision == "int8" and kind != "onnx":
        raise ValueError("int8 is ONNX Runtime's quantization: pass format='onnx'.")


def _write_graph(whole: Exportable, graph: WholePolicy, path: Path, kind: str, frames: Recording) -> None:
    inputs = _examples(whole, frames)
    batch_axes = [0] * len(whole.names) + [1] * len(whole.memory)
    memory = [f"{name}_out" for name, _ in whole.memory]
    with torch.no_grad(), onnx_files.quiet():
        if kind == "torchscript":
            torch.jit.save(torch.jit.trace(graph, tuple(inputs), check_trace=False), path)
            return
        if kind == "exported_program":
            batch = torch.export.Dim("batch", min=1, max=1 << 16)
            shapes = (tuple({axis: batch} for axis in batch_axes),)
            torch.export.save(torch.export.export(graph, tuple(inputs), dynamic_shapes=shapes), path)
            return
        graph.shows_stages = True
        graph(*inputs)
        stages = list(graph.stage_names)
        names = [*whole.names, *(f"{name}_in" for name, _ in whole.memory)]
        onnx_files.write(graph, inputs, path, names, ["action", *memory, *stages], batch_axes)
        onnx_files.hide_outputs(path, stages)


def _examples(whole: Exportable, frames: Recording) -> list[Tensor]:
    """The first frames, twice or more: a batch of one would be taken for one of any size that never changes."""
    first = whole.inputs(frames[0])
    inputs = [torch.cat([x[:1]] * 2) for x in first]
    return [*inputs, *whole.zeros(2)]


def _inputs_of(whole: Exportable, graph: WholePolicy, frames: Recording) -> Iterator[dict[str, NDArray[Any]]]:
    """The graph's inputs over a recording, its memory as it is then."""
    graph = copy.deepcopy(graph)
    graph.shows_stages = False
    memory = None
    for observations in frames:
        inputs = whole.inputs(observations)
        memory = whole.zeros(len(inputs[0])) if memory is None else memory
        remembered = {f"{name}_in": x.numpy() for (name, _), x in zip(whole.memory, memory, strict=True)}
        yield {**whole.arrays(observations), **remembered}
        with torch.no_grad():
            _, *memory = graph(*inputs, *memory)


def _refuse_errors(checked: Mapping[str, Any]) -> None:
    error = checked["largest_difference"]
    if not error <= TOLERANCE:
        raise ExportError(
            f"The exported file does not do what the policy does: on {checked['frames']} frames its actions differ by "
            f"up to {error:.3g}, {TOLERANCE:.0e} is allowed. Nothing was written."
        )


def _put_in_place(made: Path, path: Path, kind: str, contract: Contract) -> None:
    if kind == "onnx":
        onnx_files.put_in_place(made, path, contract)
        return
    extra = {CONTRACT_KEY: contract.to_json()}
    if kind == "torchscript":
        torch.jit.save(torch.jit.load(made), made, _extra_files=extra)
    else:
        torch.export.save(torch.export.load(made), made, extra_files=extra)
    made.replace(path)


def _as_yaml(contract: Contract) -> str:
    header = "# What the policy in the file beside this one takes, gives and was trained with; the file holds it too.\n"
    return header + yaml.safe_dump(contract.to_dict(), sort_keys=False)
