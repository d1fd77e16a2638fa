"""The names of the published package `defm` (1.1.0): what runs with `from defm import ...` runs with these.

Networks, weights and normalization are this library's own; only how they are called is the package's.
"""

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.depth import MEAN, STD, DepthImages, Size, Unit, normalize_depth, normalize_inverse_depth
from defm_rl.encoders import build_encoder, find_card, load_encoder
from defm_rl.encoders.network import ConvEncoder
from defm_rl.encoders.vit import VisionTransformer
from defm_rl.encoders.zoo import CARDS

if TYPE_CHECKING:
    from PIL import Image

    Picture = DepthImages | Image.Image

__all__ = [
    "DefmCNN",
    "DefmViT",
    "convert_to_3channel_metric",
    "create_defm_model",
    "preprocess_depth_batch",
    "preprocess_depth_dav2",
    "preprocess_depth_image",
]

_BIFPN_MULTIPLE = 32


class DefmCNN(ConvEncoder):
    """A convolutional encoder that answers as the published package's do: with a dict."""

    def forward(self, x: Tensor, norm: bool = True) -> dict[str, Any]:  # type: ignore[override]
        """Features of a batch of images, from `preprocess_depth_image`.

        Args:
            x: (B, 3, H, W); height and width multiples of 32.
            norm: Whether the features are normalized, as they were for training.

        Returns:
            "global_backbone" (B, C), and "dense_bifpn": maps P3, P4, P5 after the BiFPN.

        Raises:
            ValueError: For another size.
        """
        self._check_size(x, "Pad with preprocess_depth_batch(..., cnn_padding=True), or take forward_no_bifpn.")
        maps = self.backbone(x, self.levels)
        fused = self.fpn(maps, self.levels)
        return {
            "global_backbone": self._global(maps["P5"], norm),
            "dense_bifpn": {
                level: self._norm_channels(fused[level]) if norm else fused[level] for level in self.levels
            },
        }

    def forward_no_bifpn(self, x: Tensor, norm: bool = True) -> dict[str, Any]:
        """The same without the BiFPN, for any size: "global_backbone", and "dense_feats" as the backbone gives them."""
        maps = self.backbone(x, self.levels)
        return {"global_backbone": self._global(maps["P5"], norm), "dense_feats": maps}

    def _global(self, coarsest: Tensor, norm: bool) -> Tensor:
        mean = coarsest.mean((2, 3))
        return self.norm_cls(mean) if norm else mean


class DefmViT(VisionTransformer):
    """A vision transformer that answers as the published package's do: with the class token."""

    def forward(self, x: Tensor, is_training: bool = False) -> Tensor | dict[str, Any]:  # type: ignore[override]
        """The normalized class token (B, C); what `forward_features` gives where `is_training`."""
        features = self.forward_features(x)
        return features if is_training else features["x_norm_clstoken"]

    def forward_features(self, x: Tensor) -> dict[str, Any]:
        """All tokens of the last block.

        Args:
            x: (B, 3, H, W), from `preprocess_depth_image`; height and width multiples of 14.

        Returns:
            "x_norm_clstoken" (B, C), "x_norm_patchtokens" (B, N, C), "x_norm_regtokens" (B, 0, C), "x_prenorm"
            (B, 1 + N, C) and "masks" (None).

        Raises:
            ValueError: For another size.
        """
        ((patches, token),) = self.get_intermediate_layers(x, return_class_token=True, norm=False)
        prenorm = torch.cat((token.unsqueeze(1), patches), dim=1)
        normed = self.norm(prenorm)
        return {
            "x_norm_clstoken": normed[:, 0],
            "x_norm_regtokens": normed[:, 1:1],
            "x_norm_patchtokens": normed[:, 1:],
            "x_prenorm": prenorm,
            "masks": None,
        }


_ANSWERS_AS = {ConvEncoder: DefmCNN, VisionTransformer: DefmViT}


def create_defm_model(
    model_name: str, pretrained: bool = False, pretrained_path: str | os.PathLike[str] | None = None
) -> DefmCNN | DefmViT:
    """Build a published model.

    Args:
        model_name: Such as "defm_resnet18".
        pretrained: Whether to take the published weights from the Hub; else they are random, from PyTorch's global
            generator.
        pretrained_path: Take the weights of this file, whatever `pretrained` says.

    Returns:
        The model on the CPU, float32, in evaluation mode. Parameters have the published names.

    Raises:
        ValueError: The name is unknown; the message suggests one.
        WeightsUnavailableError, WeightsNotFoundError, InvalidWeightsError: See `defm_rl.load_encoder`.
    """
    name = find_card(model_name).name
    if name not in CARDS:
        raise ValueError(f"{name} is none of the published models, which are {', '.join(CARDS)}: take load_encoder.")
    if pretrained or pretrained_path is not None:
        network = load_encoder(name, "hub" if pretrained_path is None else pretrained_path)
    else:
        network = build_encoder(name).eval()
    # The same module, parameters and buffers; only its way of answering differs.
    network.__class__ = _ANSWERS_AS[type(network)]
    assert isinstance(network, DefmCNN | DefmViT)
    return network


def preprocess_depth_image(
    input_data: "Picture", target_size: Size | None = None, patch_size: int | None = None, *, unit: Unit = "m"
) -> Tensor:
    """Normalize one depth image.

    Args:
        input_data: A PIL image, array or tensor; (H, W), (1, H, W) or (H, W, C), of which the first channel counts.
        target_size: Height and width to resize to, an int for a square.
        patch_size: Round height and width down to a multiple of this; 14 for the ViTs.
        unit: "m", "mm", or the metres of one count. Integers are not accepted as metres.

    Returns:
        (1, 3, H', W'), without a gradient; on the device of a tensor, else on the CPU.

    Raises:
        TypeError, ValueError: See `defm_rl.normalize_depth`; or this is no single image.
    """
    return normalize_depth(_single(input_data), target_size, unit=unit, multiple_of=patch_size)


def preprocess_depth_dav2(
    input_data: "Picture", target_size: Size | None = None, patch_size: int | None = None
) -> Tensor:
    """Normalize one image of relative inverse depth, as Depth Anything V2 gives it; arguments as above."""
    return normalize_inverse_depth(_single(input_data), target_size, multiple_of=patch_size)


def preprocess_depth_batch(
    input_batch: DepthImages,
    target_size: Size | None = None,
    cnn_padding: bool = False,
    patch_size: int | None = None,
    *,
    device: str | torch.device | None = None,
    unit: Unit = "m",
) -> Tensor:
    """Normalize a batch of depth images.

    Args:
        input_batch: (N, H, W) or (N, 1, H, W), and what else `normalize_depth` takes.
        target_size: Height and width to resize to, an int for a square.
        cnn_padding: Pad with zeros on the right and at the bottom to multiples of 32, which the BiFPN needs.
        patch_size: Round height and width down to a multiple of this; 14 for the ViTs.
        device: Where to compute; by default where the batch is.
        unit: "m", "mm", or the metres of one count. Integers are not accepted as metres.

    Returns:
        (N, 3, H', W').

    Raises:
        TypeError, ValueError: See `defm_rl.normalize_depth`.
    """
    if device is not None:
        input_batch = torch.as_tensor(input_batch).to(device)
    pad_to = _BIFPN_MULTIPLE if cnn_padding else None
    return normalize_depth(input_batch, target_size, pad_to, unit=unit, multiple_of=patch_size)


def convert_to_3channel_metric(metric_depth: NDArray[np.generic]) -> NDArray[np.float32]:
    """The three channels of a depth image before they are standardised.

    Args:
        metric_depth: (H, W), metres.

    Returns:
        (H, W, 3), from 0 to 1.

    Raises:
        TypeError, ValueError: See `defm_rl.normalize_depth`.
    """
    channels = normalize_depth(_single(metric_depth))[0].movedim(0, -1)
    return (channels * torch.tensor(STD) + torch.tensor(MEAN)).clamp(0.0, 1.0).numpy()


def _single(picture: "Picture") -> DepthImages:
    """One depth image as (H, W)."""
    image = picture.detach() if isinstance(picture, Tensor) else np.asarray(picture)
    if image.ndim == 3 and image.shape[0] == 1:
        image = image[0]
    elif image.ndim == 3 and image.shape[-1] <= 4:
        image = image[..., 0]
    if image.ndim != 2:
        raise ValueError(
            f"one depth image is (H, W), (1, H, W) or (H, W, C), got {tuple(image.shape)}: for a batch, take "
            "preprocess_depth_batch or normalize_depth"
        )
    return image
