"""Where an encoder's weights come from: the Hugging Face Hub, a file, or a random generator."""

import hashlib
import json
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defm_rl.errors import UserError

logger = logging.getLogger(__name__)

REPOSITORY = "leggedrobotics/defm"
"""Where the published checkpoints are: file `NAME.pth` for each encoder."""

ADAPTATION = "defm_rl.adaptation"
"""Under this key a `.safetensors` file of adapted weights says, as JSON, what they are an adaptation of."""


class WeightsUnavailableError(UserError, OSError):
    """The Hub cannot be reached, and the weights are not in its cache."""


class WeightsNotFoundError(UserError, FileNotFoundError):
    """There is no such file, revision or repository."""


class InvalidWeightsError(UserError, ValueError):
    """The file is damaged, or does not hold this encoder's weights."""


@dataclass(frozen=True)
class Adaptation:
    """Whose features adapted weights stand in for, see `defm_rl.adaptation`.

    Attributes:
        parent: The sha256 of the weights that they are an adaptation of.
        features: For which features, see `DepthEncoder.feature_settings`: for others they are just other weights.
        record: All that the file says of how it was made.
    """

    parent: str
    features: str
    record: dict[str, Any] = field(repr=False, compare=False, default_factory=dict)


@dataclass(frozen=True)
class WeightsInfo:
    """Which weights an encoder has.

    Attributes:
        encoder: The encoder's name, such as "defm_resnet18".
        source: "hub", "file" or "random".
        sha256: Of the file; of names and values (see `state_sha256`) where they are random.
        revision: The Hub's commit, where they are from there.
        path: The file on this machine; None where they are random.
        adaptation: What they are an adaptation of, where they are one.
        seed: Of random weights.
        parent: The sha256 of the weights that these were trained from, where the file says so.
        trained: The stages that were trained, where it does.
    """

    encoder: str
    source: str
    sha256: str
    revision: str | None = None
    path: Path | None = None
    adaptation: Adaptation | None = None
    seed: int | None = None
    parent: str | None = None
    trained: tuple[str, ...] = ()


def find_weights(
    encoder: str,
    weights: str | os.PathLike[str] = "hub",
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> WeightsInfo:
    """Find the file that holds an encoder's weights; download it where it is the Hub's and not in its cache.

    Of several processes that do this at once, one downloads and the others wait.

    Args:
        encoder: The encoder's name.
        weights: "hub", or the path of a file.
        revision: The Hub's branch, tag or commit; default: "main".
        cache_dir: The Hub's cache; default: what huggingface_hub takes (HF_HUB_CACHE, HF_HOME).

    Returns:
        The file and its sha256.

    Raises:
        WeightsUnavailableError: The Hub cannot be reached, and its cache does not have the file.
        WeightsNotFoundError: The Hub does not have the file or the revision, or the path does not exist.
        InvalidWeightsError: The file in the Hub's cache is damaged.
    """
    if weights == "hub":
        path = _from_hub(f"{encoder}.pth", revision, cache_dir)
        digest = file_sha256(path)
        # In the cache the file is a link, and where git-lfs keeps it, named after the sha256 it should have.
        expected = path.readlink().name if path.is_symlink() else ""
        if re.fullmatch(r"[0-9a-f]{64}", expected) and digest != expected:
            raise InvalidWeightsError(
                f"{path} is damaged: its sha256 is {digest}, not {expected}. Delete {path.resolve()} to have it "
                "downloaded again."
            )
        return WeightsInfo(encoder, "hub", digest, revision=path.parent.name, path=path)
    path = Path(weights).expanduser()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise WeightsNotFoundError(
            f'weights must be "hub", "random" or the path of a file, and {path} {what}. Where the file has moved, name '
            "its place now: what was trained on it goes by its sha256 alone."
        )
    return WeightsInfo(encoder, "file", file_sha256(path), path=path.resolve())


def read_adaptation(path: Path) -> Adaptation | None:
    """What the weights in a file are an adaptation of; None where they are none.

    Raises:
        InvalidWeightsError: The file is damaged.
    """
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            said = (file.metadata() or {}).get(ADAPTATION)
        record = None if said is None else json.loads(said)
        return None if record is None else Adaptation(record["parent"], record["features"], record)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidWeightsError(f"{path} is damaged: {first_line(error)}.") from error


@lru_cache(maxsize=64)
def _file_sha256(path: Path, size: int, modified_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_sha256(path: Path) -> str:
    """Sha256 of a file; computed once for as long as the file stays as it is."""
    path = path.resolve()
    stat = path.stat()
    return _file_sha256(path, stat.st_size, stat.st_mtime_ns)


def state_sha256(network: nn.Module) -> str:
    """The `tensors_sha256` of every parameter and persistent buffer."""
    return tensors_sha256(network.state_dict())


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """Sha256 over the name and then the values of each tensor, in the order of the names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        # As one axis: a number has none, and could not be seen as bytes.
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _from_hub(file: str, revision: str | None, cache_dir: str | os.PathLike[str] | None) -> Path:
    """The file's path in the Hub's cache, after downloading it where need be."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import (
        EntryNotFoundError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    cache = None if cache_dir is None else Path(cache_dir).expanduser()
    url = hf_hub_url(REPOSITORY, file, revision=revision)
    try:
        # Asked first and once: without a network the download would try for half a minute, behind a silent firewall
        # for several, before it says so.
        get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT)
        held = try_to_load_from_cache(REPOSITORY, file, cache_dir=cache, revision=revision)
        got = hf_hub_download(REPOSITORY, file, revision=revision, cache_dir=cache)
        if got != held:
            _count_download(revision, cache)
        return Path(got)
    except Exception as error:  # of requests, httpx or httpx2, as huggingface_hub's version has it
        reason = error
    try:
        path = Path(hf_hub_download(REPOSITORY, file, revision=revision, cache_dir=cache, local_files_only=True))
    except OSError:
        pass
    else:
        logger.info("The Hub did not give %s (%s); it is taken from the cache.", file, first_line(reason))
        return path
    # The local one is a subclass, but means that there was no answer.
    if isinstance(reason, EntryNotFoundError | RepositoryNotFoundError | RevisionNotFoundError) and not isinstance(
        reason, LocalEntryNotFoundError
    ):
        raise WeightsNotFoundError(
            f"The Hub has no {file} at revision {revision or 'main'!r} of {REPOSITORY}: {first_line(reason)} ({url})."
        ) from reason
    command = f"hf download {REPOSITORY} {file} --local-dir ." + (f" --revision {revision}" if revision else "")
    raise WeightsUnavailableError(
        f"{file} could not be had from the Hugging Face Hub ({type(reason).__name__}: {first_line(reason)}), and is "
        f"not in the cache {cache or constants.HF_HUB_CACHE}. Where there is a network, get it by `{command}` or from "
        f"{url}, and pass its path: weights='/path/to/{file}'. weights='random' needs no file, but knows nothing."
    ) from reason


def _count_download(revision: str | None, cache: Path | None) -> None:
    """Fetch the repository's config.json, by which the Hub counts downloads: the authors are to see theirs."""
    from huggingface_hub import hf_hub_download

    try:
        hf_hub_download(REPOSITORY, "config.json", revision=revision, cache_dir=cache)
    except Exception as error:  # nothing here needs it
        logger.debug("The Hub did not give config.json: %s", first_line(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, to stand within a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
