"""How much memory an encoder takes, found without taking it.

The real code runs on tensors that have a shape but no data, and every allocation and release on the way is booked. What
libraries allocate behind PyTorch's operations is not seen so: oneDNN's copies of a convolution's tensors in its own
layout, which weigh on a CPU, are added; cuDNN's workspaces are not, nor what our kernels for processors work in (up to
2.4 MB for each thread).
"""

import copy
import math
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.depth_encoder import CHUNK
from defm_rl.encoders.inference import share_count
from defm_rl.encoders.layers import has_channels_last

_BLOCK = 16  # channels that oneDNN keeps together
_ATEN = torch.ops.aten


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory in bytes.

    Attributes:
        weights: Of the network, and of the copy in another layout or precision that encoding works with.
        inputs: The depth, float32.
        outputs: The features.
        peak: At the worst moment, beyond weights and inputs: activations, workspaces, outputs and gradients.
        saved: What the forward pass keeps for the backward pass; 0 without gradients.
        gradients: Of the trained weights; 0 without gradients.
    """

    weights: int
    inputs: int
    outputs: int
    peak: int
    saved: int = 0
    gradients: int = 0


def estimate_encoding(
    encoder: DepthEncoder, batch: int, height: int, width: int, *, training: bool = False, device: str | None = None
) -> MemoryEstimate:
    """The memory of encoding one batch of depth images, without taking it.

    Depth is taken to be clean (from 0 to 100 m). On a CPU a frozen encoder works on several shares of the batch at a
    time, on one per thread: the estimate has all of them at their worst at the same moment, which is what they can come
    to.

    Args:
        encoder: The encoder. It encodes one real image where it is frozen and on a CPU, to have its graph recorded.
        batch: Number of images.
        height: Pixels.
        width: Pixels.
        training: Whether this is a forward and backward pass, `encoder(depth)`; else it is `encoder.encode(depth)`.
        device: "cpu" or "cuda", whether there is one or not. Default: where the encoder is.

    Raises:
        ValueError: For a backward pass where nothing is trained.
    """
    device = device or encoder.device.type
    if device != encoder.device.type:
        encoder = copy.deepcopy(encoder).to("cpu" if device == "cpu" else "meta")
    weights = sum(map(nbytes, (*encoder.parameters(), *encoder.buffers())))
    if not training and encoder.frozen:
        weights += encoder.copied_bytes(device)
    inputs = 4 * batch * height * width
    outputs = batch * encoder.feature_dim * encoder.dtype.itemsize
    if training:
        peak, saved, gradients = training_pass(lambda depth: encoder(depth), encoder, (batch, height, width))
        return MemoryEstimate(weights, inputs, outputs, peak, saved, gradients)
    if not (encoder.frozen and device == "cpu"):
        ledger = Ledger()
        depth = ledger.tensor((batch, height, width), device=encoder.device)
        with ledger:
            encoder.encode(depth, chunk=CHUNK)
        return MemoryEstimate(weights, inputs, outputs, ledger.peak)
    return MemoryEstimate(weights, inputs, outputs, _shared_peak(encoder, batch, height, width, outputs))


def training_pass(
    forward: Callable[[Tensor], Tensor], module: torch.nn.Module, shape: Sequence[int]
) -> tuple[int, int, int]:
    """Peak, what is kept for the backward pass, and gradients of `forward` on depth of a shape, in bytes.

    Raises:
        ValueError: Where `module` has nothing that is trained.
    """
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    if not trained:
        raise ValueError("Nothing here is trained, so that there is no backward pass: pass trainable= to the encoder.")
    ledger = Ledger()
    depth = ledger.tensor(shape, device=trained[0].device)
    with ledger:
        output = forward(depth)
        saved = ledger.now - nbytes(output)
        gradients = torch.autograd.grad(output, trained, torch.ones_like(output), allow_unused=True)
    return ledger.peak, saved, sum(nbytes(gradient) for gradient in gradients if gradient is not None)


def nbytes(tensor: Tensor) -> int:
    """Size of a tensor in bytes."""
    return tensor.numel() * tensor.element_size()


def _shared_peak(encoder: DepthEncoder, batch: int, height: int, width: int, outputs: int) -> int:
    """The peak of `encode` on a CPU: of the shares that are in work at the same time, and the features so far."""
    alone = copy.copy(encoder)
    alone.threads = 1
    alone.encode(torch.ones(1, height, width))
    threads, chunk = encoder.sharing_threads, min(batch, CHUNK)
    shares = share_count(chunk * height * width, threads)
    share, at_once = math.ceil(chunk / shares), min(shares, threads)
    ledger = Ledger()
    depth = ledger.tensor((share, height, width), device=encoder.device)
    before = torch.get_num_threads()
    torch.set_num_threads(before if at_once == 1 else 1)
    try:
        with ledger:
            alone.encode(depth)
    finally:
        torch.set_num_threads(before)
    if share == batch:
        return ledger.peak
    return max(at_once * ledger.peak + outputs * (batch - at_once * share) // batch, 2 * outputs)


class Ledger(TorchDispatchMode):
    """Books what is allocated and released while tensors without data, from `tensor`, go through real code.

    Each storage counts once, however many tensors are views of it. Where the code asks whether values are as they
    should be, the answer is yes.

    Attributes:
        now: Bytes held, without those of `tensor`.
        peak: The most that was ever held.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: weakref.WeakKeyDictionary[Any, None] = weakref.WeakKeyDictionary()
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}
        self._attention = _FusedAttention()

    def __enter__(self) -> "Ledger":
        self._attention.__enter__()  # type: ignore[no-untyped-call]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        self._attention.__exit__(*error)  # type: ignore[no-untyped-call]

    def tensor(self, shape: Sequence[int], dtype: torch.dtype = torch.float32, *, device: torch.device) -> Tensor:
        """A tensor that says it is on the device, and has no data; not booked."""
        inner = torch.empty(*shape, dtype=dtype, device="meta")
        self._known[inner.untyped_storage()] = None
        return _Dataless(inner, device)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs an operation on shapes alone, and books its outputs."""
        if func is _ATEN._local_scalar_dense.default:
            return True
        kwargs = dict(kwargs or {})
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        device = given[0].device if given else torch.device(kwargs.get("device") or "cpu")
        if kwargs.get("device") is not None:
            device = torch.device(kwargs["device"])
            kwargs["device"] = torch.device("meta")
        inner_args, inner_kwargs = tree_map(self._inner, (args, kwargs))
        outputs = func(*inner_args, **inner_kwargs)
        # What these give has the layout of what they were given, but not on the meta device.
        if func is _ATEN.native_group_norm.default:
            outputs = (torch.empty_like(inner_args[0]), *outputs[1:])
        elif device.type == "cpu" and func in _CONVOLUTIONS and has_channels_last(inner_args[0]):
            outputs = torch.empty_like(outputs, memory_format=torch.channels_last)
        originals = {id(self._inner(x)): x for x in given}
        if device.type == "cpu" and func in _CONVOLUTIONS:
            self._raise_to(self.now + _convolution_workspace(outputs, *inner_args))
        if device.type == "cpu" and func is _ATEN.convolution_backward.default:
            self._raise_to(self.now + _backward_workspace(outputs, *inner_args))
        return tree_map(lambda x: self._booked(x, device, originals) if isinstance(x, Tensor) else x, outputs)

    def _inner(self, x: Any) -> Any:
        """The dataless tensor behind one; weights get one too, which is not booked."""
        if isinstance(x, _Dataless):
            return x.dataless
        if not isinstance(x, Tensor):
            return x
        if id(x) not in self._weights:
            meta = x.detach()
            if x.device.type != "meta":
                meta = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="meta")
            self._known[meta.untyped_storage()] = None
            self._weights[id(x)] = (x, meta)
        return self._weights[id(x)][1]

    def _booked(self, inner: Tensor, device: torch.device, originals: dict[int, Tensor]) -> Tensor:
        if id(inner) in originals:  # an operation in place
            return originals[id(inner)]
        storage = inner.untyped_storage()
        if storage not in self._known:
            size = storage.nbytes()
            self._known[storage] = None
            weakref.finalize(storage, self._release, size)
            self.now += size
            self._raise_to(self.now)
        return _Dataless(inner, device)

    def _release(self, size: int) -> None:
        self.now -= size

    def _raise_to(self, size: int) -> None:
        self.peak = max(self.peak, size)


class _Dataless(Tensor):
    """A tensor on the meta device that says it is on another: code that asks takes the path it takes there."""

    dataless: Tensor  # on the meta device
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, inner: Tensor, device: torch.device) -> "_Dataless":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=device,
        )
        made.dataless = inner
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        raise RuntimeError(f"{func} on a tensor without data, outside its Ledger.")


class _FusedAttention(TorchFunctionMode):
    """Attention in one operation, as on CPUs and GPUs: the meta device would take it apart."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.nn.functional.scaled_dot_product_attention and args[0].device.type == "meta":
            return _ATEN._scaled_dot_product_flash_attention_for_cpu(*args, **(kwargs or {}))[0]
        return func(*args, **(kwargs or {}))


_CONVOLUTIONS = (_ATEN.convolution.default, _ATEN._convolution.default)


def _convolution_workspace(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *settings: Any) -> int:
    """What a CPU's convolution holds at its worst moment beside its inputs, output included, in bytes.

    Which of PyTorch's implementations it is depends on the sizes, and on the number of threads.
    """
    if _is_onednns(x, weight, bias, settings):
        return _onednn_workspace(out, x, weight)
    pointwise = weight.shape[2:].numel() == 1
    columns = 0 if pointwise else x.element_size() * x.shape[0] * weight[0].numel() * out.shape[2:].numel()
    return columns + nbytes(out)


def _is_onednns(x: Tensor, weight: Tensor, bias: Tensor | None, settings: Sequence[Any]) -> bool:
    operands = [None if t is None else torch.empty(1, dtype=t.dtype).expand(t.shape) for t in (x, weight, bias)]
    backend = torch._C._select_conv_backend(*operands, *settings[:6])
    return bool(backend == torch._C._ConvBackend.Mkldnn)  # type: ignore[attr-defined]


def _backward_workspace(
    gradients: Sequence[Tensor | None], _: Tensor, x: Tensor, weight: Tensor, __: Any, *settings: Any
) -> int:
    """What the gradient of a CPU's convolution holds at its worst moment beside its inputs, where that is known.

    Without AVX-512, oneDNN leaves maps lower than the kernel to products of matrices, whose workspace is four gradients
    of the weight for each thread (measured, oneDNN 3.12).
    """
    is_low = x.shape[-2] < weight.shape[-2] and gradients[1] is not None
    if not is_low or torch.backends.cpu.get_cpu_capability() == "AVX512" or not _is_onednns(x, weight, None, settings):
        return 0
    return sum(nbytes(g) for g in gradients if g is not None) + 4 * torch.get_num_threads() * nbytes(weight)


def _onednn_workspace(out: Tensor, x: Tensor, weight: Tensor) -> int:
    """First input, weights and output are there in oneDNN's blocks of channels, then the output in its two layouts."""
    channels_last = has_channels_last(x)
    blocked_in = 0 if channels_last or x.shape[1] <= 3 else _blocked(x)  # an image's channels are taken as they are
    blocked_out = 0 if channels_last else _blocked(out)
    return max(blocked_in + nbytes(weight) + (blocked_out or nbytes(out)), blocked_out + nbytes(out))


def _blocked(x: Tensor) -> int:
    channels = x.shape[1]
    return nbytes(x) // channels * (math.ceil(channels / _BLOCK) * _BLOCK)
