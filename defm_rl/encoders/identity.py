"""Which encoder a checkpoint was made with, in a form that survives what people do with checkpoints."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class EncoderIdentity:
    """What a checkpoint keeps of the frozen part of an encoder.

    Attributes:
        encoder: The encoder's name, such as "defm_resnet18".
        sha256: Of the weights that it was made with, see `WeightsInfo`.
        trainable: The stages that are trained, and hence in the checkpoint.
        seed: Of random weights, which can be drawn again from it; None for others.
    """

    encoder: str
    sha256: str
    trainable: tuple[str, ...] = ()
    seed: int | None = None

    def to_tensor(self, device: torch.device) -> Tensor:
        """As a tensor on a device, since safetensors and those who average or broadcast state dicts take nothing else.

        Float32 holds the characters exactly, whatever scales, sums and casts to half precision they go through together
        with the weights; integers would be cut off by a moving average in place.
        """
        fields = {key: value for key, value in asdict(self).items() if value is not None}
        return torch.tensor(list(json.dumps(fields).encode()), dtype=torch.float32, device=device)

    @classmethod
    def read(cls, state: Tensor | Mapping[str, Any]) -> Self:
        """What `to_tensor` has made; or its fields, or their text as bytes, as checkpoints held them before.

        Raises:
            ValueError: Where it is none of these any more.
        """
        try:
            fields = _from_tensor(state) if isinstance(state, Tensor) else state
            if re.fullmatch(r"[0-9a-f]{64}", fields["sha256"]) is None:  # averaged with another
                raise ValueError(fields["sha256"])
            return cls(fields["encoder"], fields["sha256"], tuple(fields.get("trainable", ())), fields.get("seed"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                "The checkpoint does not say any more which encoder it was made with: arithmetic has changed the entry "
                "that holds its name, as the average of checkpoints of different encoders does. Average checkpoints of "
                "one encoder with factors that sum to 1; or copy the entry, '..._extra_state', from one of them."
            ) from error

    def to_metadata(self) -> dict[str, str]:
        """As the metadata of a `.safetensors` file with the whole encoder."""
        metadata = {"encoder": self.encoder, "parent_sha256": self.sha256, "trained": ",".join(self.trainable)}
        return metadata if self.seed is None else {**metadata, "parent_seed": str(self.seed)}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> Self | None:
        """What `to_metadata` has made; None where another program wrote the file."""
        if not metadata.keys() >= {"encoder", "parent_sha256", "trained"}:
            return None
        seed = metadata.get("parent_seed")
        trained = tuple(filter(None, metadata["trained"].split(",")))
        return cls(metadata["encoder"], metadata["parent_sha256"], trained, None if seed is None else int(seed))


def _from_tensor(characters: Tensor) -> Mapping[str, Any]:
    text = bytes(characters.detach().float().round().to(torch.int64).tolist())
    fields: Mapping[str, Any] = json.loads(text)
    return fields
