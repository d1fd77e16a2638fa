"""RSL-RL's algorithms with a smaller learning rate for an encoder that is trained with the policy."""

from itertools import chain
from typing import Any

from rsl_rl.algorithms import PPO, Distillation

from defm_rl.optimizers import EncoderAdam

_EPS = 1e-8  # Adam's, as in RSL-RL


class EncoderPPO(PPO):  # type: ignore[misc]  # RSL-RL is not typed
    """`PPO` that trains a `DefmModel`'s encoder at a fraction of the learning rate, which stays adaptive.

    ```python
    algorithm = dict(class_name="defm_rl.rsl_rl:EncoderPPO", encoder_lr_scale=0.1, share_cnn_encoders=True, ...)
    ```

    Args:
        *args: Of `PPO`.
        encoder_lr_scale: The encoder's learning rate as a fraction of the others'.
        **kwargs: Of `PPO`; the optimizer is Adam.
    """

    def __init__(self, *args: Any, encoder_lr_scale: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parameters = chain(self.actor.parameters(), self.critic.parameters())
        self.optimizer = EncoderAdam(parameters, self.learning_rate, encoder_lr_scale=encoder_lr_scale, eps=_EPS)


class EncoderDistillation(Distillation):  # type: ignore[misc]  # RSL-RL is not typed
    """`Distillation` that trains the student's encoder at a fraction of the learning rate.

    Args:
        *args: Of `Distillation`.
        encoder_lr_scale: The encoder's learning rate as a fraction of the others'.
        **kwargs: Of `Distillation`; the optimizer is Adam.
    """

    def __init__(self, *args: Any, encoder_lr_scale: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        parameters = self.student.parameters()
        self.optimizer = EncoderAdam(parameters, self.learning_rate, encoder_lr_scale=encoder_lr_scale, eps=_EPS)
