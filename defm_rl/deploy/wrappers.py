"""What stands between a gymnasium vector environment and the policy."""

from typing import Any

from gymnasium.vector import VectorActionWrapper, VectorObservationWrapper, VectorRewardWrapper

from defm_rl.deploy.policies import ExportError
from defm_rl.gymnasium import EncodeDepth, NormalizeDepth, SimulateSensor


def encoding_in(env: Any) -> EncodeDepth | None:
    """The encoding among a vector environment's wrappers.

    What stands inside it is the robot's part; what stands around it would have to be in the graph.

    Raises:
        ExportError: Where a wrapper around it is not known to leave observations and actions as they are, where there
            is another encoding, and where depth is normalized, with or without an encoding.
    """
    wrappers = []
    while env is not None:
        wrappers.append(env)
        env = getattr(env, "env", None)
    for wrapper in wrappers:
        if isinstance(wrapper, NormalizeDepth):
            raise normalized(wrapper)
    encodings = [wrapper for wrapper in wrappers if isinstance(wrapper, EncodeDepth)]
    if not encodings:
        return None
    if len(encodings) > 1:
        raise encoded_twice()
    for wrapper in wrappers[: wrappers.index(encodings[0])]:
        if not _leaves_all(wrapper):
            raise ExportError(
                f"{type(wrapper).__name__} stands between EncodeDepth and the policy, and cannot be exported: "
                "gymnasium's wrappers of rewards, statistics and videos can. Put it before the encoding, "
                "where the robot does its part."
            )
    return encodings[0]


def normalized(wrapper: Any) -> ExportError:
    """Of depth that a wrapper normalizes."""
    return ExportError(
        f"{type(wrapper).__name__} makes channels of metric depth, and cannot be exported: a file takes depth as the "
        "camera measures it. Train with the encoder before the policy or in it, where exports hold both."
    )


def encoded_twice() -> ExportError:
    """Of several encodings."""
    return ExportError(
        "Two wrappers encode depth, and one alone can be exported: encode all cameras by one, depth_keys=[...]."
    )


def _leaves_all(wrapper: Any) -> bool:
    """Whether a wrapper is known to leave observations and actions as they are, to the robot at least."""
    if isinstance(wrapper, VectorRewardWrapper | SimulateSensor):
        return True
    changes = isinstance(wrapper, VectorObservationWrapper | VectorActionWrapper)
    return type(wrapper).__module__.startswith("gymnasium.wrappers.vector.") and not changes
