"""What a sensor takes from a policy, taken apart: noise, range, latency and frame rate, and what would help."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from defm_rl import sensors
from defm_rl.experiments import statistics
from defm_rl.experiments.report.arms import Arm
from defm_rl.experiments.report.summary import Results, paired
from defm_rl.experiments.tasks import IDEAL
from defm_rl.sensors import make_sensor

_CHANCE = 0.05  # p values below it count


def taken_apart(results: Results, arms: Sequence[Arm], names: Sequence[str]) -> list[dict[str, Any]]:
    """For each policy and sensor: what is lost to ideal depth, and what comes back without each of its parts.

    A part's share is what comes back where it alone is switched off; shares need not add up to the loss, since two
    parts may each be enough to fail.

    Args:
        results: The finished cells, of ideal depth and of the sensors without their parts as well.
        arms: The policies.
        names: The sensors.
    """
    found = []
    for arm in arms:
        by_sensor = {name: row for name in names if name != IDEAL and (row := _row(results, arm, name))}
        found.append({"policy": arm.name, "task": arm.task, "by_sensor": by_sensor})
    return found


def _row(results: Results, arm: Arm, sensor: str) -> dict[str, Any] | None:
    ideal, seen = paired(results, (arm, IDEAL), (arm, sensor))
    if not seen:
        return None
    parts = {}
    for part, name in sensors.taken_apart(sensor).items():
        without, with_it = paired(results, (arm, name), (arm, sensor))
        if without:
            p_value = statistics.paired_test(without, with_it)
            parts[part] = {"success": _mean(without), "gain": _mean(without) - _mean(with_it), "p_value": p_value}
    row = {
        "success": _mean(seen),
        "loss": _mean(ideal) - _mean(seen),
        "p_value": statistics.paired_test(ideal, seen),
        "episodes": len(seen),
        "parts": parts,
    }
    return {**row, "advice": advice(arm, sensor, row)}


def advice(arm: Arm, sensor: str, row: dict[str, Any]) -> str:
    """In words what is lost to what, and what would help."""
    if row["loss"] <= 0 or row["p_value"] >= _CHANCE:
        return f"Nothing is lost that {row['episodes']} episodes could show."
    known = row["parts"] or {
        part: {"gain": row["loss"], "p_value": row["p_value"]} for part in make_sensor(sensor).effects
    }
    culprits = [part for part, found in known.items() if found["gain"] > 0 and found["p_value"] < _CHANCE]
    if not culprits:
        several = _REMEDIES["several"].format(sensor=sensor)
        return f"No single part explains it: with any one of them switched off as much is lost. {several}"
    culprits.sort(key=lambda part: -known[part]["gain"])
    return " ".join(_remedy(part, arm, sensor, known[part]["gain"]) for part in culprits)


_REMEDIES = {
    "noise": "adapt the encoder to it: defm-rl adapt {run} sensors=[{sensor}].",
    "adapted noise": "it is adapted already: more minutes, more frames, or training with env.sensor={sensor}.",
    "range": "what is not seen no encoder brings back: a camera that sees more than {near:.2g} to {far:.3g} m, or "
    "training with env.sensor={sensor}.",
    "latency": "single frames do not have it, so that adapting does not mend it: training with it, or with a memory "
    "(algo.rnn_type=gru), such as env.sensor={quiet} and then adapting; or a faster camera.",
    "frame_rate": "single frames do not have it, so that adapting does not mend it: training with it, such as "
    "env.sensor={quiet} and then adapting; or a faster camera.",
    "several": "Train with env.sensor={sensor}, or adapt the encoder and look at what is left.",
}


def _remedy(part: str, arm: Arm, sensor: str, gain: float) -> str:
    camera = make_sensor(sensor)
    key = "adapted noise" if part == "noise" and arm.adapted is not None else part
    quiet = f"{sensor}_without_noise" if "noise" in camera.effects else sensor
    range_m = {"near": camera.nearest_m, "far": camera.max_depth_m}
    text = _REMEDIES[key].format(run=arm.runs[0].folder, sensor=sensor, quiet=quiet, **range_m)
    return f"{part.replace('_', ' ').capitalize()} costs {100 * gain:.1f} points: {text}"


def _mean(successes: Sequence[bool]) -> float:
    return float(np.mean(successes))
