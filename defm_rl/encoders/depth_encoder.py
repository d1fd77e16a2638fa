"""Depth in, features out: a DeFM network with its normalization, frozen or trained."""

import contextlib
import copy
import itertools
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from defm_rl.depth import DepthFormat, Unit, input_channels, is_traced, looks_metric, warn_of_scale
from defm_rl.encoders.base import Encoder
from defm_rl.encoders.files import write_weights
from defm_rl.encoders.freezing import FrozenWeights, freeze, full_state, unfreeze
from defm_rl.encoders.identity import EncoderIdentity
from defm_rl.encoders.inference import Compiled, FrozenRunner
from defm_rl.encoders.layers import StochasticDepth, use_cpu_kernels
from defm_rl.encoders.output import EncoderOutput
from defm_rl.encoders.pooling import SIZED_POOLS, make_pool
from defm_rl.encoders.registry import find_card
from defm_rl.encoders.weights import WeightsInfo
from defm_rl.encoders.zoo import load_encoder
from defm_rl.kernels import cpu
from defm_rl.names import hint

Size = int | tuple[int, int]

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PROBE = 224  # pixels of the images that tell which parameters matter, where any size will do
COMPILERS = ("auto", "inductor", "off")
_VARYING = (StochasticDepth, nn.modules.dropout._DropoutNd, nn.modules.batchnorm._BatchNorm)
"""What gives other features in training mode than in evaluation mode."""
CHUNK = 1024
"""Images that are encoded at once at the most, unless it is said otherwise."""


class DepthEncoder(nn.Module):
    """An encoder that takes metric depth and gives one vector per image.

    What is frozen stays frozen: its weights are buffers outside `parameters()` and `state_dict()`, `apply()` does not
    reach them, `train()` leaves them in evaluation mode, and no gradient graph is built through them. A checkpoint
    holds the encoder's name and the sha256 of its weights instead, as a tensor, and both are verified on loading.

    Args:
        encoder: A name, see `find_card`: a published encoder's, with or without "defm_"; that of one that was
            registered by `register_encoder`; or "package.module:Class(width=64)".
        weights: "hub", the path of a file, see `load_encoder`, or "random".
        features: "global", a map ("P3", "P4", "P5"; "P14" for a ViT), or several of them, concatenated in that order.
        pool: How a map becomes a vector: "mean", "columns" (mean over height), "grid" (averages over a grid of cells),
            "spatial_softmax", "attention" (learned with the policy) or "flatten". Default: "grid".
        grid: Rows and columns of the "grid" pool.
        bifpn: Whether the CNNs' maps pass through the BiFPN, as they were distilled, or come from the backbone.
        trainable: "none", "all", or the names of the stages to train (`list_encoders()` has them).
        stochastic_depth: Whether what is trained may vary at random or with the batch in training mode, as stochastic
            depth, dropout and batch normalization do: for supervised training. A policy whose features differ between
            rollout and update learns from wrong probability ratios.
        image_size: Height and width of the depth that will come, before any resize. Needed by the pools whose size
            depends on it, "columns" and "flatten".
        size: Resizes to this height and width (or square side) first.
        unit: Unit of the depth: "m", "mm", or the metres of one count, such as 0.0001; see `DepthFormat`.
        max_depth_m: Beyond it a pixel is a hole, as the largest value of an integer type is; None for no limit.
        precision: What the network computes in: "float32", "bfloat16" or "float16". Weights, the depth's normalization
            and the features that come out are in float32 whatever it is.
        compile: How the network runs. "auto": on a CPU as a traced graph with a share of the batch on every core where
            all is frozen, for the CNNs with C++ kernels, which are built when they are first needed, where there is a
            compiler (some twenty seconds); elsewhere operation by operation. "inductor": compiled by `torch.compile`,
            with CUDA graphs on a GPU in `encode`, which takes some time for every new size of batch and images. "off":
            operation by operation everywhere.
        revision: The Hub revision (branch, tag or commit).
        cache_dir: The Hub's cache directory.
        seed: Seeds random weights.
        network: The frozen network of another `DepthEncoder` to use, with its weights, in place of loading them again.

    Attributes:
        depth_format: Unit and limit of the depth.
        feature_dim: Length D of the feature vector.
        provenance: Which weights these are, with their sha256.
        checks_scale: Whether to warn, once, of depth on a CPU in which nothing is nearer than 100 m. Off where a
            `DepthScaleMonitor` watches each camera, as in wrappers and policies.
        threads: On how many threads `encode` shares a batch on a CPU: as many as PyTorch had when this was made.

    Raises:
        ValueError: For an unknown encoder, feature, pool or stage, each with what there is.
        WeightsUnavailableError: Where the weights are neither here nor to be had.
    """

    if TYPE_CHECKING:

        def __call__(self, depth: Tensor | np.ndarray) -> Tensor:
            """See `forward`."""

    def __init__(
        self,
        encoder: str = "defm_resnet18",
        *,
        weights: str = "hub",
        features: str | Sequence[str] = "global",
        pool: str | None = None,
        grid: Sequence[int] = (2, 4),
        bifpn: bool = True,
        trainable: str | Sequence[str] = "none",
        stochastic_depth: bool = False,
        image_size: Size | None = None,
        size: Size | None = None,
        unit: Unit = "m",
        max_depth_m: float | None = None,
        precision: str = "float32",
        compile: str = "auto",  # noqa: A002  the name that torch gives it
        revision: str | None = None,
        cache_dir: str | None = None,
        seed: int = 0,
        network: Encoder | None = None,
    ) -> None:
        super().__init__()
        _check_choice("precision", precision, PRECISIONS)
        _check_choice("compile", compile, COMPILERS)
        if network is not None and trainable != "none":
            raise ValueError("A shared network cannot be trained: leave out network=, or pass trainable='none'.")
        self.card = find_card(encoder)
        self.encoder_name = self.card.name
        self.net = network or load_encoder(encoder, weights, revision=revision, cache_dir=cache_dir, seed=seed)
        self.provenance: WeightsInfo = self.net.provenance
        self.features = (features,) if isinstance(features, str) else tuple(features)
        self.bifpn = bifpn
        self.stochastic_depth = stochastic_depth
        self.size = _pair(size)
        self.depth_format = DepthFormat(unit, max_depth_m)
        self.precision, self.compile_mode = precision, compile
        self._check_features()
        # The Bi-FPN adds levels of unlike strides cell by cell: sizes must divide. A ViT cuts the image into patches.
        self._pad_to = self.card.size_multiple if self._uses_bifpn else None
        self._multiple_of = self.card.resized_to

        self._image_size = map_input = self.size or _pair(image_size)
        self._fixed_maps: dict[str, tuple[int, int]] = {}  # sizes of the maps that feature_dim depends on
        self.pools = nn.ModuleDict()
        self.feature_dim = 0
        for name in self.features:
            if name == "global":
                self.feature_dim += self.card.channels["global"]
                continue
            map_size = None if map_input is None else self._map_size(name, map_input)
            channels = self.card.bifpn_channels if self._uses_bifpn else self.card.channels[name]
            assert channels is not None
            self.pools[name], dim = make_pool(pool or "grid", channels, map_size, grid)
            self.feature_dim += dim
            if map_size is not None and pool in SIZED_POOLS:
                self._fixed_maps[name] = map_size

        self.threads = torch.get_num_threads()
        self._runner: Callable[[Tensor], Tensor] | None = None  # only while all is frozen
        self._runner_weights: FrozenWeights | None = None
        self._compiled: Compiled | None = None
        self.checks_scale = True
        self._trainable: tuple[str, ...] = ()
        freeze(self.net, lambda _: True)
        self.unfreeze(trainable)
        self.train(self.training)

    @property
    def trainable(self) -> tuple[str, ...]:
        """Names of the stages that are trained; empty where the network is frozen."""
        return self._trainable

    @property
    def frozen(self) -> bool:
        """Whether features depend on the image alone: nothing here, a learned pool included, is trained."""
        if self._runner_weights is not None and self._runner_weights.unchanged():
            return True  # asked before each encoding, without a walk through the network
        return next(self.parameters(), None) is None

    @property
    def device(self) -> torch.device:
        """The device the network is on."""
        return self._any_tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """The network's floating dtype. Depth is normalized in float32, whatever it is."""
        return self._any_tensor.dtype

    @property
    def unit(self) -> Unit:
        """Unit of the depth, see `DepthFormat`."""
        return self.depth_format.unit

    @property
    def feature_settings(self) -> str:
        """What decides the features beside the weights, in one line: equal for equal settings on any machine."""
        pools = "".join(f" {name}:{pool}" for name, pool in self.pools.items())
        return f"features={'+'.join(self.features)}{pools} bifpn={self.bifpn} size={self.size}"

    @property
    def stands_for(self) -> str:
        """The sha256 of the weights whose features these are meant to be: its own, or its parent's.

        Weights that were adapted to a camera for these very features say of whom they are an adaptation, and a policy
        that was trained on the parent's features takes theirs.
        """
        adaptation = self.provenance.adaptation
        if adaptation is None or adaptation.features != self.feature_settings:
            return self.provenance.sha256
        return adaptation.parent

    def forward(self, depth: Tensor | np.ndarray) -> Tensor:
        """Features of a batch of depth images.

        Args:
            depth: Depth in the encoder's unit, as `normalize_depth` takes it: (B, H, W), (B, 1, H, W), (B, H, W, 1).
                Negative values are holes here, also where there are no others.

        Returns:
            (B, feature_dim) in the network's dtype (float32 unless it was cast; under autocast, too), with a gradient
            graph only through what is trained.

        Raises:
            TypeError, ValueError: See `as_depth`; or where images of this size give another number of features.
        """
        images = self._images(depth)
        # Of depth that is itself the outcome of something trained, the gradient goes through frozen weights.
        derived = images.requires_grad and torch.is_grad_enabled()
        if derived or is_traced() or not self.frozen:
            return self._run(images)
        return self._encoded(images, CHUNK)

    def encode(self, depth: Tensor | np.ndarray, *, chunk: int = CHUNK) -> Tensor:
        """Features without gradients, whether anything is trained or not: what is done once per frame.

        Args:
            depth: As for `forward`.
            chunk: Images that are encoded at once at the most, which bounds the memory.

        Returns:
            (B, feature_dim) in the network's dtype.

        Raises:
            TypeError, ValueError: As for `forward`.
        """
        return self._encoded(self._images(depth), chunk)

    def maps(self, depth: Tensor | np.ndarray) -> EncoderOutput:
        """What the network gives before any pooling, for looking at and for heads of one's own."""
        return self._raw(self._normalized(self._images(depth)))

    def unfreeze(self, trainable: str | Sequence[str]) -> list[nn.Parameter]:
        """Makes (more of) the network trainable.

        Only parameters that the chosen features depend on become trainable: an optimizer has no use for the others.

        Args:
            trainable: "none", "all", or stage names.

        Returns:
            The parameters that were not trainable before, to be given to an optimizer.

        Raises:
            ValueError: For a stage that the network does not have, or stages that the features do not depend on.
        """
        stages = self._stages(trainable)
        if not stages:
            return []
        prefixes = self.net.stage_prefixes()
        wanted = tuple(prefix for stage in stages for prefix in prefixes[stage])
        thawed = unfreeze(self.net, lambda name: name.startswith(wanted))
        unused = self._unused(thawed)
        freeze(self.net, lambda name: name in unused)
        if next(self.net.parameters(), None) is None:
            raise ValueError(
                f"features {'+'.join(self.features)} of {self.encoder_name} do not depend on {', '.join(stages)}: "
                f"name earlier stages to train ({', '.join(prefixes)})."
            )
        self._trainable = tuple(s for s in prefixes if s in stages or s in self._trainable)
        self._forget_compiled()
        self.train(self.training)
        new = [parameter for name, parameter in thawed.items() if name not in unused]
        self._mark()
        return new

    def _mark(self) -> None:
        """Marks the network's weights: optimizers, handed a flat list of parameters, tell them apart by this."""
        for parameter in self.net.parameters():
            parameter.is_defm_encoder = True  # type: ignore[attr-defined]

    def freeze(self) -> None:
        """Freezes all of the network again, as it would be with `trainable="none"`; its weights stay as they are."""
        freeze(self.net, lambda _: True)
        self._trainable = ()
        self._forget_compiled()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Sets training mode, except for what is frozen, and, without `stochastic_depth`, for what varies in it."""
        super().train(mode)
        prefixes = self.net.stage_prefixes()
        trained = tuple(prefix for stage in self._trainable for prefix in prefixes[stage])
        for name, module in self.net.named_modules():
            # By name, since a stochastic depth has no weights that would say whether it is frozen.
            is_trained = bool(trained) and f"{name}.".startswith(trained)
            allowed = self.stochastic_depth or not isinstance(module, _VARYING)
            module.training = mode and is_trained and allowed
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> Self:
        """Applies `fn` to everything but the network: policies initialise their layers so, and would overwrite it."""
        for pool in self.pools.values():
            pool.apply(fn)
        fn(self)
        return self

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the whole network, what was trained and what was frozen, to a file that `weights=` takes.

        So one policy's fine-tuned encoder becomes the next one's, frozen or not. Learned pools are not part of it. The
        file's metadata says which encoder it is, from which weights it was trained, and which stages.

        Args:
            path: A `.safetensors` file.

        Raises:
            ValueError: Where the path has another suffix.
        """
        write_weights(path, full_state(self.net), self._identity)

    @property
    def _identity(self) -> EncoderIdentity:
        return EncoderIdentity(self.encoder_name, self.provenance.sha256, self._trainable, self.provenance.seed)

    def get_extra_state(self) -> Tensor:
        """What a checkpoint keeps of the frozen part: which encoder it was."""
        # Where the weights are, so that whoever broadcasts checkpoints finds all of it on one device.
        return self._identity.to_tensor(torch.device("cpu") if self.device.type == "meta" else self.device)

    def set_extra_state(self, state: Tensor | dict[str, Any]) -> None:
        """Verifies that a checkpoint was made with this encoder.

        Args:
            state: What `get_extra_state` returned, or what it stands for.

        Raises:
            RuntimeError: Where it was another encoder or other weights of it, as for all else in a state dict that
                does not fit.
        """
        try:
            saved = EncoderIdentity.read(state)
        except ValueError as error:
            raise RuntimeError(str(error)) from error
        if saved.encoder != self.encoder_name:
            raise RuntimeError(
                f"The checkpoint was made with encoder {saved.encoder!r}, this policy has {self.encoder_name!r}."
            )
        everything_is_loaded = len(self._trainable) == len(self.net.stage_prefixes())
        accepted = {self.provenance.sha256} if self._trainable else {self.provenance.sha256, self.stands_for}
        if saved.sha256 not in accepted and not everything_is_loaded:
            raise RuntimeError(
                f"The checkpoint was made with other weights of {self.encoder_name!r} (sha256 {saved.sha256}) than "
                f"those loaded here from {self.provenance.source!r} (sha256 {self.provenance.sha256}). "
                "Frozen weights are not part of a checkpoint: pass the same weights= as in training."
            )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `half` and their like go through."""
        self._forget_compiled()
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        # Threads and compiled graphs are not copied.
        return {**self.__dict__, "_runner": None, "_runner_weights": None, "_compiled": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._mark()  # which copies of parameters are without

    def extra_repr(self) -> str:
        """The settings, in the order of the constructor."""
        return f"{self.encoder_name}, features={self.features}, dim={self.feature_dim}, trainable={self._trainable}"

    @property
    def _any_tensor(self) -> Tensor:
        # Whether the first layer is frozen or not: parameters() of a frozen network would walk through all of it.
        tensors = (itertools.chain(m.parameters(False), m.buffers(False)) for m in self.net.modules())
        return next(itertools.chain.from_iterable(tensors))

    @property
    def _uses_bifpn(self) -> bool:
        return self.bifpn and self.card.bifpn_channels is not None and any(name != "global" for name in self.features)

    def _images(self, depth: Tensor | np.ndarray) -> Tensor:
        # On a robot and in a rollout, a frame without any valid pixel is one of holes, and no reason to stop.
        images = self.depth_format.read(depth, check_values=False)
        if not is_traced():
            if self._fixed_maps and tuple(images.shape[1:]) != self._image_size:
                self._check_map_sizes((images.shape[1], images.shape[2]))
            if self.checks_scale and images.device.type == "cpu" and not looks_metric(images):
                nearest_m = self.depth_format.beyond_range_m(depth)
                if nearest_m is not None:
                    self.checks_scale = False
                    warn_of_scale(self.depth_format.far_message(nearest_m))
        return images if images.device == self.device else images.to(self.device)

    def _check_map_sizes(self, image_size: tuple[int, int]) -> None:
        if self.size is not None:
            return
        for name, map_size in self._fixed_maps.items():
            if self._map_size(name, image_size) != map_size:
                made_for = "x".join(map(str, self._image_size or ()))
                raise ValueError(
                    f"images of {image_size[0]}x{image_size[1]} pixels do not give the {self.feature_dim} features of "
                    f"this encoder, whose pool depends on the image's size and was made for {made_for}: pass "
                    f"image_size={image_size} to an encoder for these images, or size={self._image_size} to have all "
                    "images resized."
                )

    def _run(self, depth: Tensor) -> Tensor:
        """(B, H, W) depth to features with the weights as they are, and gradients where something is trained."""
        network: Callable[[Tensor], Tensor] = self._pooled
        if self.compile_mode == "inductor" and not is_traced():
            if self._compiled is None:
                self._compiled = Compiled(self._pooled, self.encoder_name, cuda_graphs=False)
            network = self._compiled
        return network(self._normalized(depth))

    def _encoded(self, images: Tensor, chunk: int) -> Tensor:
        """(B, H, W) depth to features without gradients, the fast way where all is frozen."""
        with torch.no_grad():
            if is_traced():  # a graph for any size of the batch, and no graph within a graph
                return self._run(images)
            run = self._frozen_runner() if self.frozen else self._run
            if len(images) <= chunk:
                return run(images)
            return torch.cat([run(part) for part in images.split(chunk)])

    def _frozen_runner(self) -> Callable[[Tensor], Tensor]:
        """What `encode` runs where nothing is trained; made anew when weights have been changed in place."""
        if self._runner is None or self._runner_weights is None or not self._runner_weights.unchanged():
            self._runner_weights = FrozenWeights(self.net)
            self._runner = self._make_runner()
        return self._runner

    def _runs_in(self, device: str) -> tuple[bool, torch.dtype, torch.memory_format]:
        """Whether `encode` runs as a graph on a type of device, in which dtype, and with which layout."""
        graph = self.compile_mode == "auto" and device == "cpu"
        dtype = PRECISIONS[self.precision] if self.dtype == torch.float32 else self.dtype
        if graph and self._multiplies_bfloat16:
            dtype = torch.float32
        if graph and dtype == torch.float32 and self._has_channels_last_on_a_cpu():
            return graph, dtype, torch.channels_last
        return graph, dtype, torch.contiguous_format

    @property
    def _multiplies_bfloat16(self) -> bool:
        """Whether bfloat16 on a CPU is what our kernels multiply, between maps in float32: for CNNs, where it pays."""
        in_bfloat16 = self.precision == "bfloat16" and self.dtype == torch.float32 and self.net.has_cpu_kernels
        return in_bfloat16 and cpu.multiplies_bfloat16()

    def _has_channels_last_on_a_cpu(self) -> bool:
        """Whether float32 is faster with the channels last; for some, only where our kernels multiply."""
        return self.net.prefers_channels_last or (self.net.has_cpu_kernels and cpu.available())

    @property
    def sharing_threads(self) -> int:
        """Threads that encode a share of a batch each; one where PyTorch shares each operation better."""
        return self.threads if self.net.shares_batches else 1

    def copied_bytes(self, device: str) -> int:
        """Bytes of the copy of the weights that a frozen encoder works with on a type of device; 0 without one."""
        if not self.frozen:
            return 0
        dataless = copy.deepcopy(self.net, {id(weight): weight.to("meta") for weight in self.net.buffers()})
        net = self._net_for(device, dataless)
        return 0 if net is dataless else sum(weight.nbytes for weight in net.buffers())

    def _net_for(self, device: str, net: Encoder) -> Encoder:
        """The network, or the copy of it that a frozen encoder works with on a type of device."""
        _, dtype, layout = self._runs_in(device)
        if dtype == self.dtype and layout == torch.contiguous_format:
            return net
        # A network that is in this precision is faster than autocast, which normalizes groups in float32 on a GPU.
        net = copy.deepcopy(net).to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]
        if layout == torch.channels_last:
            use_cpu_kernels(net, torch.bfloat16 if self._multiplies_bfloat16 else torch.float32)
        return net

    def _make_runner(self) -> Callable[[Tensor], Tensor]:
        graph, dtype, layout = self._runs_in(self.device.type)
        net = self._net_for(self.device.type, self.net)

        def prepare(depth: Tensor) -> Tensor:
            return self._normalized(depth, dtype).contiguous(memory_format=layout)

        def network(x: Tensor) -> Tensor:
            return self._pooled(x, net)

        if graph:
            return FrozenRunner(prepare, network, self.sharing_threads)
        run = Compiled(network, self.encoder_name, cuda_graphs=True) if self.compile_mode == "inductor" else network
        return lambda depth: run(prepare(depth))

    def _forget_compiled(self) -> None:
        """Graphs hold the weights, their device and their dtype as they were."""
        self._runner = self._runner_weights = self._compiled = None

    def _normalized(self, depth: Tensor, dtype: torch.dtype | None = None) -> Tensor:
        return input_channels(
            depth,
            self.card.input_channels,
            self.size,
            pad_to=self._pad_to,
            multiple_of=self._multiple_of,
            dtype=dtype or self.dtype,
        )

    def _raw(self, x: Tensor, net: nn.Module | None = None) -> EncoderOutput:
        """What the network, or a copy of it in another precision, makes of channels; float32 at reduced precision."""
        reduced = self.precision != "float32"
        autocast = reduced and x.dtype == torch.float32 and net is None
        with torch.autocast(x.device.type, PRECISIONS[self.precision]) if autocast else contextlib.nullcontext():
            output: EncoderOutput = (net or self.net)(x, bifpn=self.bifpn, features=self.features)
        return output.float() if reduced else output

    def _pooled(self, x: Tensor, net: nn.Module | None = None) -> Tensor:
        output = self._raw(x, net)
        vectors = []
        for name in self.features:
            if name == "global":
                assert output.global_features is not None
                vectors.append(output.global_features)
            else:
                vectors.append(self.pools[name](output.maps[name]))
        features = torch.cat(vectors, dim=1)
        # Operations under a caller's autocast each have a dtype of their own.
        return features.float() if self.precision != "float32" else features.to(x.dtype)

    def _check_features(self) -> None:
        known = tuple(self.card.channels)
        unknown = [name for name in self.features if name not in known]
        if unknown or not self.features or len(set(self.features)) < len(self.features):
            raise ValueError(
                f"features of {self.encoder_name} must be one or more of {', '.join(known)}, each once; "
                f"got {self.features!r}."
            )

    def _map_size(self, level: str, image_size: tuple[int, int]) -> tuple[int, int]:
        stride, (height, width) = self.card.strides[level], image_size
        if self._multiple_of:
            return height // stride, width // stride
        if self._pad_to:
            height, width = (-(-side // self._pad_to) * self._pad_to for side in (height, width))
        return -(-height // stride), -(-width // stride)

    def _stages(self, trainable: str | Sequence[str]) -> tuple[str, ...]:
        known = tuple(self.net.stage_prefixes())
        if trainable == "all":
            return known
        if trainable == "none":
            return ()
        stages = (trainable,) if isinstance(trainable, str) else tuple(trainable)
        unknown = [stage for stage in stages if stage not in known]
        if unknown:
            raise ValueError(
                f'trainable must be "none", "all", or stages of {self.encoder_name}, got {unknown[0]!r}'
                f"{hint(unknown[0], ('all', 'none', *known))}."
            )
        return stages

    def _unused(self, parameters: dict[str, nn.Parameter]) -> set[str]:
        """Names of parameters that the chosen features do not depend on, found by asking autograd."""
        if not parameters:
            return set()
        size = (2 * self.card.size_multiple,) * 2
        if self.card.size_multiple == 1:  # some networks take images of one size only
            size = self._image_size or (_PROBE, _PROBE)
        with torch.enable_grad():
            output = self._raw(torch.ones(1, 3, *size, device=self.device, dtype=self.dtype))
            tensors = [t for t in (output.global_features, *output.maps.values()) if t is not None]
            total = torch.stack([t.sum() for t in tensors]).sum()
            if not total.requires_grad:
                return set(parameters)
            gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        return {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}


def _check_choice(name: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}.")


def _pair(size: Size | None) -> tuple[int, int] | None:
    if size is None:
        return None
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
