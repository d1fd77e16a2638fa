"""What all encoders have in common: their interface, and the choice of features."""

import itertools
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from defm_rl.encoders.output import EncoderOutput

if TYPE_CHECKING:
    from defm_rl.encoders.weights import WeightsInfo


class Encoder(nn.Module):
    """A network from a normalized depth image to features.

    Attributes:
        channels: Channels of "global" and of each map as the backbone gives it, finest map first.
        bifpn_channels: Channels of every map after the BiFPN; None where there is none.
        strides: Pixels of the input per cell of each map.
        size_multiple: What height and width must be multiples of: where maps pass through a BiFPN, or always where
            there is none. 1: any size will do.
        input_channels: What the network takes, see `defm_rl.depth.INPUT_CHANNELS`.
        has_cpu_kernels: Whether its convolutions are ours, see `defm_rl.encoders.layers`, so that a CPU multiplies them
            by our kernels.
        prefers_channels_last: Whether float32 on a CPU is faster with the channels last, without our kernels, too.
        shares_batches: Whether a CPU is faster with a share of the batch on each thread than with PyTorch's own threads
            in each operation, as it is where operations are small.
        file_prefix: What its tensors' names begin with, and do not in its authors' files.
        provenance: Which weights these are; set by `load_encoder`.
    """

    channels: dict[str, int]
    strides: dict[str, int]
    bifpn_channels: int | None = None
    size_multiple: int = 1
    input_channels: str = "defm"
    has_cpu_kernels: bool = False
    prefers_channels_last: bool = False
    shares_batches: bool = True
    file_prefix: str = ""
    if TYPE_CHECKING:  # TorchScript reads annotations, and knows no such type
        provenance: WeightsInfo

    @property
    def levels(self) -> tuple[str, ...]:
        """Names of the feature maps, finest first."""
        return tuple(self.strides)

    def stage_prefixes(self) -> dict[str, tuple[str, ...]]:
        """The stages from input to output; each parameter's name starts with exactly one of all the prefixes.

        Unless it is said otherwise, each submodule is a stage, and parameters of the network's own belong to the first.
        """
        return stages_of(self)

    def load_pretrained(self) -> None:
        """Takes the weights that were published for this network, by whatever means its authors have.

        Raises:
            NotImplementedError: Where there are none.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, bifpn: bool = True, features: Collection[str] | None = None) -> EncoderOutput:
        """Features of a batch of images; only what is asked for is computed.

        Args:
            x: (B, 3, H, W), from `normalize_depth`.
            bifpn: Whether maps pass through the BiFPN. Without effect on networks that have none.
            features: "global" and names of maps; None for all of them.

        Raises:
            ValueError: For a feature that the network does not have, or a size that it cannot take.
        """
        raise NotImplementedError

    def _selected(self, features: Collection[str] | None) -> tuple[bool, tuple[str, ...]]:
        """Whether the global features are wanted, and which maps."""
        known = tuple(self.channels)
        if features is None:
            return "global" in known, self.levels
        wrong = [name for name in features if name not in known]
        if wrong or not features:
            asked = repr(wrong[0]) if wrong else "none"
            raise ValueError(f"features must be one or more of {', '.join(known)}; got {asked}.")
        return "global" in features, tuple(level for level in self.levels if level in features)

    def _check_size(self, x: Tensor, advice: str) -> None:
        if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
            return  # sizes are tensors there, and a tracer cannot record a comparison of them
        height, width = x.shape[-2:]
        if height % self.size_multiple or width % self.size_multiple:
            raise ValueError(
                f"Height and width must be multiples of {self.size_multiple} here; got {height}x{width}. {advice}"
            )


class PlainEncoder(Encoder):
    """A network that makes one vector of each image, and knows nothing of maps and stages.

    Args:
        net: Makes (B, feature_dim) of (B, 3, H, W); its `feature_dim` says how many, and `size_multiple` and
            `input_channels` what it takes where that is not what is usual.
    """

    file_prefix = "net."

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.channels = {"global": int(getattr(net, "feature_dim"))}  # noqa: B009  a module's attributes are tensors
        self.strides = {}
        self.size_multiple = int(getattr(net, "size_multiple", 1))
        self.input_channels = str(getattr(net, "input_channels", "defm"))

    def forward(self, x: Tensor, bifpn: bool = True, features: Collection[str] | None = None) -> EncoderOutput:
        """(B, 3, H, W) to global features (B, feature_dim)."""
        self._selected(features)
        return EncoderOutput(self.net(x), {})

    def stage_prefixes(self) -> dict[str, tuple[str, ...]]:
        """Those of the network, where it has any; else its submodules."""
        stages: Callable[[], dict[str, tuple[str, ...]]] | None = getattr(self.net, "stage_prefixes", None)
        theirs = stages() if stages else stages_of(self.net)
        return {stage: tuple(f"net.{prefix}" for prefix in prefixes) for stage, prefixes in theirs.items()}

    def load_pretrained(self) -> None:
        """As the network does."""
        load: Callable[[], None] | None = getattr(self.net, "load_pretrained", None)
        if load is None:
            raise NotImplementedError
        load()


def stages_of(network: nn.Module) -> dict[str, tuple[str, ...]]:
    """Each submodule with weights as a stage, by the beginnings of their names; the network's own are in the first."""
    stages: dict[str, tuple[str, ...]] = {
        name: (f"{name}.",)
        for name, part in network.named_children()
        if next(itertools.chain(part.parameters(), part.buffers()), None) is not None
    }
    own = (*network._parameters, *network._buffers)
    first = next(iter(stages), "network")
    return {first: (*own, *stages.pop(first, ())), **stages} if own else stages
