"""Files with an encoder's weights: the published ones, and what people save them in.

The weights may be in a file by themselves, under a key ("model", "state_dict", "teacher", ...), or inside a whole
policy, and their names may have prefixes ("module.", "encoder.net.", ...). A file is loaded where there is exactly one
way to read it, and the log says which.
"""

import logging
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from pickle import UnpicklingError

import torch
from torch import Tensor, nn

from defm_rl.encoders.identity import EncoderIdentity
from defm_rl.encoders.weights import InvalidWeightsError, first_line

logger = logging.getLogger(__name__)

EXTRA_STATE = "_extra_state"
"""PyTorch's name for what a module has in a state dict beside its tensors; ours is the encoder's identity."""

_LISTED = 5
_PUBLISHED = ("model",)  # where published files have it
_SB3_POLICY = "policy.pth"  # the policy's state dict in an archive of Stable-Baselines3
_NETWORK = "net."  # what a `DepthEncoder` calls its network
# What torch.compile, FSDP and activation checkpointing put into the names of the modules that they wrap.
_WRAPPERS = {"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}


@dataclass(frozen=True)
class Reading:
    """One way to read a file as an encoder's weights.

    Attributes:
        keys: Under which keys of the file the state dict lies, from the outside in.
        prefix: What the names there have before the encoder's.
        state: The tensors by the encoder's own names.
        missing: The names that the encoder has and the file does not; without an identity there are none in what
            `read_weights` returns.
        shapes: Which shapes differ, for messages.
        unexpected: Other names in the same state dict.
        identity: Of the `DepthEncoder` that was saved, where it was one.
    """

    keys: tuple[str, ...]
    prefix: str
    state: dict[str, Tensor] = field(repr=False)
    missing: list[str] = field(repr=False)
    shapes: list[str] = field(repr=False)
    unexpected: list[str] = field(repr=False)
    identity: EncoderIdentity | None = None

    @property
    def fits(self) -> bool:
        """Whether the encoder can be made of it: of it alone, or with the weights that it was trained from."""
        return bool(self.state) and not self.shapes and (not self.missing or self.identity is not None)

    @property
    def where(self) -> str:
        """Where in the file it is, for messages."""
        keys = "".join(f"[{key!r}]" for key in self.keys)
        return f"{keys or 'the file itself'}{f', names behind {self.prefix!r}' if self.prefix else ''}"

    def same_as(self, other: "Reading") -> bool:
        """Whether two readings give the same weights, as of an extractor that a policy has under several names."""
        return self.state.keys() == other.state.keys() and all(
            torch.equal(x, other.state[name]) for name, x in self.state.items()
        )


def read_weights(path: Path, encoder: str, wanted: Mapping[str, Tensor]) -> Reading:
    """Read an encoder's weights from a file.

    Args:
        path: A `.safetensors` file, one by `torch.save`, or an archive of Stable-Baselines3.
        encoder: The encoder's name.
        wanted: Its state dict; only names and shapes matter.

    Returns:
        The one reading that fits. It lacks stages only where a `DepthEncoder` was saved that had them frozen.

    Raises:
        InvalidWeightsError: The file is damaged, is something else, holds more than tensors need, or there is no way to
            read it as this encoder's weights, or more than one.
    """
    content, identity = _read(path)
    if identity is not None and identity.encoder != encoder:
        raise InvalidWeightsError(f"{path} holds the weights of {identity.encoder!r}, not of {encoder!r}.")
    tables = list(_tables(content))
    if not tables:
        raise InvalidWeightsError(f"{path} holds no state dict, neither by itself nor under a key such as 'model'.")
    readings = [reading for keys, table in tables for reading in _readings(keys, table, encoder, wanted)]
    fitting: list[Reading] = []
    for reading in readings:
        if reading.fits and not any(reading.same_as(other) for other in fitting):
            fitting.append(reading)
    if not fitting:
        raise InvalidWeightsError(f"{path} does not hold this encoder's weights: {_what_is_wrong(readings, wanted)}")
    if len(fitting) > 1:
        keys = "".join(f"[{key!r}]" for key in fitting[-1].keys)
        choices = "; ".join(reading.where for reading in fitting[:_LISTED])
        raise InvalidWeightsError(
            f"{path} holds this encoder's weights more than once, and they differ: {choices}. Write the one that is "
            f"meant to a file of its own, as by torch.save(torch.load({str(path)!r}){keys}, 'weights.pth'), or by the "
            "save(path) of the DepthEncoder that has it."
        )
    (taken,) = fitting
    if taken.keys not in ((), _PUBLISHED) or taken.prefix:
        logger.info("%s: weights taken from %s.", path, taken.where)
    if not taken.prefix and taken.unexpected:
        names = ", ".join(taken.unexpected)
        logger.warning("%s holds %d unexpected names, not used: %s", path, len(taken.unexpected), names)
    return taken if identity is None else replace(taken, identity=identity)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the first state dict in a file as it stands, whatever network it is of; errors as of `read_weights`."""
    tables = list(_tables(_read(path)[0]))
    if not tables:
        raise InvalidWeightsError(f"{path} holds no state dict, neither by itself nor under a key such as 'model'.")
    return {name: value for name, value in tables[0][1].items() if isinstance(value, Tensor)}


def load_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a state dict that fits into a network, which may be on the meta device and gets its memory then.

    Args:
        network: The network.
        state: Tensors by parameter name; any floating dtype.
    """
    if any(tensor.is_meta for tensor in network.state_dict().values()):
        network.to_empty(device="cpu")
    network.load_state_dict(state)


def write_weights(path: str | os.PathLike[str], state: Mapping[str, Tensor], identity: EncoderIdentity) -> None:
    """Write an encoder's weights to a `.safetensors` file that says what they are; it is there whole or not at all.

    Raises:
        ValueError: Where the path does not end in `.safetensors`.
    """
    from safetensors.torch import save_file

    path = Path(path).expanduser()
    if path.suffix != ".safetensors":
        raise ValueError(f"Weights are written to a .safetensors file; got {path}.")
    # Copies, since tensors that share memory are refused.
    tensors = {name: x.detach().cpu().clone(memory_format=torch.contiguous_format) for name, x in state.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        save_file(tensors, temporary, {"format": "pt", **identity.to_metadata()})
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> tuple[object, EncoderIdentity | None]:
    """What a file holds, its tensors on the CPU, in memory or mapped; and what it says of itself."""
    _check_first_bytes(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors import safe_open
            from safetensors.torch import load_file

            with safe_open(path, "pt") as file:
                identity = EncoderIdentity.from_metadata(file.metadata() or {})
            return load_file(path), identity
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if _SB3_POLICY in archive.namelist():
                    with archive.open(_SB3_POLICY) as file:
                        return torch.load(file, map_location="cpu", weights_only=True), None
        # Only the zip format, PyTorch's for years, can be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)), None
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        what = f"tensors, {named[1]} among it" if named else "tensors"
        raise InvalidWeightsError(
            f"{path} is no PyTorch checkpoint, or holds more than {what}, which is refused because it could run code. "
            "Where you trust who made it, write the tensors alone: file = torch.load(path, weights_only=False); "
            "torch.save(file['model'], 'weights.pth'), with the key under which they are. "
            f"PyTorch says: {first_line(error)}."
        ) from error
    except Exception as error:  # whatever a damaged archive makes the readers stumble over
        raise InvalidWeightsError(
            f"{path} ({path.stat().st_size} bytes) cannot be read, and is probably damaged or incomplete: "
            f"{first_line(error)}. Fetch it again."
        ) from error


def _tables(content: object, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Every mapping with tensors in it, with the keys that lead to it; names without those of wrapping modules."""
    if not isinstance(content, Mapping):
        return
    if any(isinstance(value, Tensor) for value in content.values()):
        yield keys, {_unwrapped(str(name)): value for name, value in content.items()}
    for key, value in content.items():
        yield from _tables(value, (*keys, str(key)))


def _unwrapped(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _readings(
    keys: tuple[str, ...], table: Mapping[str, object], encoder: str, wanted: Mapping[str, Tensor]
) -> Iterator[Reading]:
    """The ways to read a table of tensors, by what stands before the encoder's names."""
    found: Counter[str] = Counter()
    for name, value in table.items():
        parts = name.split(".")
        tails = {".".join(parts[:start]): ".".join(parts[start:]) for start in range(len(parts))}
        found.update(head for head, tail in tails.items() if isinstance(value, Tensor) and tail in wanted)
        if parts[-1] == EXTRA_STATE:
            found[f"{name.removesuffix(EXTRA_STATE)}{_NETWORK}"[:-1]] += 0
    for head in found:
        prefix = f"{head}." if head else ""
        state = {name: x for name in wanted if isinstance(x := table.get(prefix + name), Tensor)}
        used = {prefix + name for name in state}
        yield Reading(
            keys,
            prefix,
            state,
            missing=[name for name in wanted if name not in state],
            shapes=[
                f"{name} {tuple(x.shape)} instead of {tuple(wanted[name].shape)}"
                for name, x in state.items()
                if x.shape != wanted[name].shape
            ],
            unexpected=[name for name, value in table.items() if isinstance(value, Tensor) and name not in used],
            identity=_identity(table, prefix, encoder),
        )


def _identity(table: Mapping[str, object], prefix: str, encoder: str) -> EncoderIdentity | None:
    """Of the `DepthEncoder` whose network has this prefix, where it is one of this name."""
    state = None
    while state is None and prefix.endswith(
        _NETWORK
    ):  # one within another, where it is the network of a `PlainEncoder`
        prefix = prefix.removesuffix(_NETWORK)
        state = table.get(f"{prefix}{EXTRA_STATE}")
    if not isinstance(state, Tensor | Mapping):
        return None
    try:
        identity = EncoderIdentity.read(state)
    except ValueError:  # of another module, or averaged
        return None
    return identity if identity.encoder == encoder else None


def _what_is_wrong(readings: list[Reading], wanted: Mapping[str, Tensor]) -> str:
    if not readings:
        return f"none of its names is one of the encoder's {len(wanted)} ({_first(wanted)}), with or without a prefix."
    nearest = max(readings, key=lambda reading: len(reading.state))
    if nearest.identity is not None and not nearest.state:
        return (
            f"it is the checkpoint of a policy with a frozen encoder, which it leaves out. Pass the weights that the "
            f"policy was trained with, of sha256 {nearest.identity.sha256}."
        )
    problems = []
    if nearest.missing:
        problems.append(f"{len(nearest.missing)} of {len(wanted)} names are missing ({_first(nearest.missing)})")
    if nearest.shapes:
        problems.append(f"{len(nearest.shapes)} of {len(wanted)} shapes differ ({_first(nearest.shapes)})")
    advice = ""
    if nearest.missing and nearest.prefix.endswith(_NETWORK):
        advice = (
            " Where it is of an encoder that was trained in part, write the whole by its DepthEncoder's save(path)."
        )
    return f"{'; '.join(problems)} in {nearest.where}.{advice}"


def _check_first_bytes(path: Path) -> None:
    """Refuse what comes from a web page or a git clone in place of the file."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if not start:
        raise InvalidWeightsError(f"{path} is empty. Fetch it again.")
    if start.startswith(b"version https://git-lfs"):
        raise InvalidWeightsError(
            f"{path} is a git-lfs pointer, not the weights: run `git lfs pull` in its repository."
        )
    if start.startswith(b"<"):
        raise InvalidWeightsError(
            f"{path} is a web page, not the weights: download with /resolve/ in the address, not /blob/."
        )


def _first(items: Iterable[str]) -> str:
    items = list(items)
    return ", ".join(items[:_LISTED]) + (", ..." if len(items) > _LISTED else "")
