"""Error messages that name what was probably meant, as the tasks use them."""

from defm_rl.names import hint

__all__ = ["hint"]
