"""What configurations of RSL-RL's models and algorithms need in addition where they see, in any simulator."""

import dataclasses
from typing import Any

dataclass: Any = dataclasses.dataclass  # these are halves: their constructors take the other half's fields too


@dataclass
class ModelSettings:
    """A `defm_rl.rsl_rl.DefmModel`: groups of features are projected, groups of images are encoded.

    Attributes:
        encoder: Settings of the `DepthEncoder` inside the model; None where there are no images.
        depth_groups: Groups that are images. Default: those with more axes than a vector.
        feature_groups: Groups that `DefmFeatures` makes. Name them: nothing but their name tells them from vectors.
        latent_dim: What each camera's features are projected to.
        feature_normalization: Whether features are standardised.
        rnn_type: "lstm" or "gru" for a recurrent model.
        rnn_hidden_dim: Size of its state.
        rnn_num_layers: Its layers.
    """

    class_name: str = "defm_rl.rsl_rl:DefmModel"
    encoder: dict[str, Any] | None = None
    depth_groups: list[str] | None = None
    feature_groups: list[str] | None = None
    latent_dim: int = 64
    feature_normalization: bool = True
    rnn_type: str | None = None
    rnn_hidden_dim: int = 256
    rnn_num_layers: int = 1


@dataclass
class PpoSettings:
    """PPO that trains the encoder at a fraction of the learning rate, shared by actor and critic.

    Attributes:
        encoder_lr_scale: The fraction.
    """

    class_name: str = "defm_rl.rsl_rl:EncoderPPO"
    share_cnn_encoders: bool = True
    encoder_lr_scale: float = 0.1


@dataclass
class DistillationSettings:
    """Distillation that trains the student's encoder at a fraction of the learning rate.

    Attributes:
        encoder_lr_scale: The fraction.
    """

    class_name: str = "defm_rl.rsl_rl:EncoderDistillation"
    encoder_lr_scale: float = 0.1
