"""ONNX files: written from a module, quantized, and put in place with their contract and seal."""

import contextlib
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defm_rl.deploy.runtime.contract import CONTRACT_KEY, SEAL_KEY, Contract, seal

OPSET = 18
"""Of the files: what TensorRT 8.6, OpenVINO 2023 and ONNX Runtime 1.14 read."""

_SMALL_MAP = 4  # pixels, by measurement


def write(
    module: nn.Module,
    inputs: Sequence[Tensor],
    path: Path,
    input_names: Sequence[str],
    output_names: Sequence[str],
    batch_axes: Sequence[int],
) -> None:
    """Writes a module as ONNX, for any size of the batch.

    By PyTorch's exporter on `torch.export`: the older one on TorchScript is deprecated, and would take every Python
    number for a constant in silence.

    Args:
        module: Its forward takes the inputs one by one, and gives a tuple.
        inputs: Examples, of a batch of two or more.
        path: The file.
        input_names: One for each input.
        output_names: One for each output.
        batch_axes: The axis of each input that is the batch.
    """
    batch = torch.export.Dim("batch", min=1, max=1 << 16)
    with quiet():
        program = torch.onnx.export(
            module,
            tuple(inputs),
            input_names=list(input_names),
            output_names=list(output_names),
            dynamic_shapes=(tuple({axis: batch} for axis in batch_axes),),
            opset_version=OPSET,
            dynamo=True,
            custom_translation_table={
                torch.ops.aten.group_norm.default: _group_norm,
                torch.ops.aten.conv2d.default: _conv2d,
            },
            external_data=False,
            verbose=False,
        )
        assert program is not None
        program.save(str(path), external_data=False)


def _group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """PyTorch's group normalization of (B, C, ...), an image or anything else of known size, in ONNX.

    The exporter's own ends with a product and a sum, and asks for the shape at every step; a batch normalization that
    normalizes nothing is both in one pass, which saves a tenth of a light network's time.
    """
    from onnxscript import opset18

    op: Any = opset18
    channels, *sides = map(int, x.shape[1:])

    def constant(number: float, count: int) -> Any:
        # In half precision these have to be so, too; in float32 the casts are folded away.
        return op.CastLike(op.Constant(value_floats=[number] * count), x)

    if num_groups == channels and sides and weight is not None and bias is not None:
        return op.InstanceNormalization(x, weight, bias, epsilon=eps)
    groups = op.Reshape(x, op.Constant(value_ints=[0, num_groups, -1]))
    normalized = op.InstanceNormalization(groups, constant(1.0, num_groups), constant(0.0, num_groups), epsilon=eps)
    normalized = op.Reshape(normalized, op.Constant(value_ints=[0, channels, *sides]))
    if weight is None and bias is None:
        return normalized
    weight = constant(1.0, channels) if weight is None else weight
    bias = constant(0.0, channels) if bias is None else bias
    mean, variance = constant(0.0, channels), constant(1.0, channels)
    return op.BatchNormalization(normalized, weight, bias, mean, variance, epsilon=0.0)


def _conv2d(
    x: Any,
    weight: Any,
    bias: Any = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Any:
    """PyTorch's convolution of images of known size, in ONNX: of the smallest ones, as the matrix product that it is.

    Where a 3x3 convolution gives a handful of pixels, reading its weights takes all the time, and ONNX Runtime reads
    those of a product sooner: 8 % of ResNet-18's time for an image of 64x64.
    """
    from onnxscript import opset18

    op: Any = opset18
    out_channels, _, *kernel = map(int, weight.shape)
    channels, height, width = map(int, x.shape[1:])
    # Which pixel each output sees at each place of the kernel; one past the last outside.
    indices = np.arange(height * width).reshape(height, width)
    padded = np.pad(indices, [(side, side) for side in padding], constant_values=height * width)
    taps = np.lib.stride_tricks.sliding_window_view(padded, kernel)[:: stride[0], :: stride[1]]
    rows, columns = taps.shape[:2]
    if groups > 1 or kernel == [1, 1] or list(dilation) != [1, 1] or rows * columns > _SMALL_MAP:
        given = (x, weight) if bias is None else (x, weight, bias)
        return op.Conv(*given, strides=stride, pads=[*padding, *padding], dilations=dilation, group=groups)

    def ints(*values: int) -> Any:
        return op.Constant(value_ints=[int(value) for value in values])

    pixels = op.Transpose(op.Reshape(x, ints(0, channels, height * width)), perm=[0, 2, 1])
    pixels = op.Pad(pixels, ints(0, 0, 0, 0, 1, 0))
    seen = op.Reshape(
        op.Gather(pixels, ints(*taps.flat), axis=1), ints(0, rows * columns, channels * math.prod(kernel))
    )
    out = op.MatMul(seen, op.Reshape(op.Transpose(weight, perm=[2, 3, 1, 0]), ints(-1, out_channels)))
    out = out if bias is None else op.Add(out, bias)
    return op.Reshape(op.Transpose(out, perm=[0, 2, 1]), ints(0, out_channels, rows, columns))


def hide_outputs(path: Path, names: Sequence[str]) -> None:
    """Takes outputs out of a file's interface; the tensors keep their names, so that `with_outputs` finds them."""
    model = onnx.load(path)
    kept = [output for output in model.graph.output if output.name not in names]
    del model.graph.output[:]
    model.graph.output.extend(kept)
    onnx.save(model, path)


def with_outputs(path: Path, names: Sequence[str]) -> bytes:
    """A file's model with inner tensors among its outputs, those that are there; without its seal."""
    model = onnx.load(path)
    there = {name for node in model.graph.node for name in node.output}
    outputs = {output.name for output in model.graph.output}
    for name in names:
        if name in there - outputs:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    return bytes(model.SerializeToString())


def quantize(path: Path, frames: Sequence[Mapping[str, NDArray[Any]]]) -> None:
    """Turns a file's convolutions and matrix products into int8, with ranges calibrated on frames.

    Args:
        path: The file; it is replaced.
        frames: Inputs by name, memory included.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime is not typed
        def __init__(self) -> None:
            self._frames: Iterator[Mapping[str, NDArray[Any]]] = iter(frames)

        def get_next(self) -> Any:
            return next(self._frames, None)

    prepared = path.with_suffix(".prepared.onnx")
    with quiet():
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    prepared.unlink()


def put_in_place(made: Path, path: Path, contract: Contract) -> None:
    """Puts a contract and a seal into an ONNX file and moves it where it is to be, whole or not at all."""
    model = onnx.load(made)
    for entry in [entry for entry in model.metadata_props if entry.key in (CONTRACT_KEY, SEAL_KEY)]:
        model.metadata_props.remove(entry)
    model.metadata_props.add(key=CONTRACT_KEY, value=contract.to_json())
    made.write_bytes(seal(model.SerializeToString()))
    made.replace(path)


class Session:
    """An ONNX model as a function of arrays by name.

    Args:
        model: A file, or its content.
        threads: That compute one call.
    """

    def __init__(self, model: Path | bytes, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        content = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.outputs = [output.name for output in self._session.get_outputs()]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """All outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, dict(inputs)), strict=True))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the pages that exporters and quantizers write for their own developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def metadata(path: Path) -> dict[str, str]:
    """What a file says of itself, by key."""
    return {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
