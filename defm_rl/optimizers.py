"""A smaller learning rate for the encoder, in optimizers that trainers make and schedule."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import Adam, Optimizer


class EncoderLearningRate(Optimizer):
    """Mixin for optimizers that trains encoder parameters at a fraction of the learning rate.

    Trainers hand an optimizer one flat list of parameters, and before each update set one learning rate everywhere. So
    the encoder's parameters are told apart by their mark `is_defm_encoder`, and the scale is applied inside `step`. It
    is a setting, not a state: an optimizer that goes on from a checkpoint keeps the scale that it was made with.

    ```python
    class EncoderSGD(EncoderLearningRate, torch.optim.SGD): ...
    ```

    Args:
        params: Parameters.
        encoder_lr_scale: The encoder's learning rate as a fraction of the others'.
        **kwargs: Of the optimizer that this is mixed into.
    """

    def __init__(self, params: Iterable[nn.Parameter], *, encoder_lr_scale: float = 0.1, **kwargs: Any) -> None:
        params = list(params)
        encoder = [p for p in params if getattr(p, "is_defm_encoder", False)]
        others = [p for p in params if not getattr(p, "is_defm_encoder", False)]
        # Both groups are always there, be it empty, so that any two policies' optimizers look alike to a checkpoint.
        groups = [{"params": others, "lr_scale": 1.0}, {"params": encoder, "lr_scale": encoder_lr_scale}]
        super().__init__(groups, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads all but the scales."""
        scales = [group["lr_scale"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, scale in zip(self.param_groups, scales, strict=True):
            group["lr_scale"] = scale

    def step(self, closure: Callable[[], float] | None = None) -> float | Tensor | None:  # type: ignore[override]
        """One optimization step; each group's `lr` is back at what the schedule set when it returns."""
        rates = [group["lr"] for group in self.param_groups]
        try:
            for group in self.param_groups:
                group["lr"] = group["lr"] * group["lr_scale"]
            return super().step(closure)
        finally:
            for group, rate in zip(self.param_groups, rates, strict=True):
                group["lr"] = rate


class EncoderAdam(EncoderLearningRate, Adam):
    """Adam with a smaller learning rate for the encoder.

    ```python
    policy_kwargs = dict(optimizer_class=EncoderAdam, optimizer_kwargs=dict(encoder_lr_scale=0.1))
    ```

    Args:
        params: Parameters.
        lr: Learning rate of everything but the encoder.
        encoder_lr_scale: The encoder's learning rate as a fraction of `lr`.
        eps: SB3 uses 1e-5 for PPO and A2C, but only where no other optimizer is asked for: so it is the default here.
        **kwargs: Of `torch.optim.Adam`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 3e-4,
        *,
        encoder_lr_scale: float = 0.1,
        eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(params, encoder_lr_scale=encoder_lr_scale, lr=lr, eps=eps, **kwargs)
