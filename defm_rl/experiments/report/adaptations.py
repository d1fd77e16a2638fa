"""Policies as they were trained beside themselves on an encoder that was adapted: success, tests, and features."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from defm_rl.adaptation import Standardization
from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.weights import file_sha256, read_adaptation
from defm_rl.experiments import environments, statistics
from defm_rl.experiments.adapted import load_adapted, seeing_network
from defm_rl.experiments.evaluation import load
from defm_rl.experiments.report.arms import Arm
from defm_rl.experiments.report.features import mean_cosine, relative_shift
from defm_rl.experiments.report.scenes import scene_frames
from defm_rl.experiments.report.summary import Results, paired
from defm_rl.experiments.runs import Run
from defm_rl.sensors import simulate


def compared(
    results: Results,
    frozen: Arm,
    adapted: Arm,
    sensors: Sequence[str],
    gaps: Mapping[str, Mapping[str, float]] | None,
) -> dict[str, Any]:
    """One policy on its own encoder and on the adapted one, behind each sensor, layout by layout.

    Args:
        results: The finished cells.
        frozen: The policy as it was trained.
        adapted: The same with adapted weights.
        sensors: Behind which.
        gaps: What `feature_gaps` found.
    """
    assert adapted.adapted is not None
    declared = read_adaptation(adapted.adapted)
    trained = list(declared.record.get("sensors", ())) if declared else []
    by_sensor = {}
    for arm, sensor in results:
        if arm is not adapted or sensor not in sensors:
            continue
        before, after = paired(results, (frozen, sensor), (adapted, sensor))
        if not before:
            continue
        by_sensor[sensor] = {
            "before": dict(statistics.rate(before)),
            "after": dict(statistics.rate(after)),
            "won": sum(b and not a for a, b in zip(before, after, strict=True)),
            "lost": sum(a and not b for a, b in zip(before, after, strict=True)),
            "p_value": statistics.paired_test(before, after),
            "adapted_to": sensor in trained,
            **(gaps or {}).get(sensor, {}),
        }
    return {
        "policy": frozen.name,
        "adapted": adapted.name,
        "task": adapted.task,
        "file": str(adapted.adapted),
        "sha256": file_sha256(adapted.adapted),
        "record": declared.record if declared else {},
        "by_sensor": by_sensor,
    }


def feature_gaps(
    run: Run, adapted: Path, sensors: Sequence[str], frames: int, first_layout: int
) -> dict[str, dict[str, float]]:
    """How far features of what each sensor sees are from those the policy was trained with, before and after.

    Both are held against what the policy's own encoder makes of the same frames, seen ideally.

    Returns:
        By sensor: cosine_before, cosine_after (1: the same), shift_before, shift_after (1: as far as two frames).

    Raises:
        ConfigError: Where the adaptation is not this policy's.
    """
    config, policy, encoder = load(run)
    own = seeing_network(config, policy, encoder)
    config, policy, encoder = load_adapted(run, adapted)
    other = encoder if encoder is not None and environments.sees_features(config.encoder) else policy.network
    assert other is not None
    ideal = torch.from_numpy(scene_frames(config, frames, first_layout))
    clean = _encode(own, ideal)
    standard = Standardization.of(clean).to(clean.device)

    def seen_by_policy(features: Tensor) -> Any:
        views = torch.zeros(len(features), dtype=torch.int64)
        return standard(features, views).clamp(-standard.clip, standard.clip).double().numpy()

    reference = clean.double().numpy()
    found: dict[str, dict[str, float]] = {}
    for step, name in enumerate(sensors):
        seen = simulate(ideal, name, seed=first_layout, step=step)
        found[name] = {}
        for when, network in (("before", own), ("after", other)):
            features = _encode(network, seen)
            found[name][f"cosine_{when}"] = mean_cosine(reference, features.double().numpy())
            found[name][f"shift_{when}"] = relative_shift(seen_by_policy(clean), seen_by_policy(features))
    return found


@torch.no_grad()
def _encode(network: nn.Module, depth: Tensor) -> Tensor:
    features: Tensor = network.encode(depth) if isinstance(network, DepthEncoder) else network(depth)
    return features.float().cpu()
