"""What a sweep costs beyond its runs: eight short ones in turn and two at a time, and a thousand that are finished."""

import contextlib
import dataclasses
import io
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from defm_rl.experiments.config import compose_config
from defm_rl.experiments.identity import run_digest, run_name
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.status import State, Status

TASK = ["experiment=navigation", "env.num_envs=8", "evaluation.clips=0"]
SHORT = [
    *TASK,
    "encoder=blind",
    "env.depth_size=[24,48]",
    "evaluation.episodes=8",
    "algo.n_steps=64",
    "algo.total_steps=32768",  # a dozen seconds: of shorter runs, the imports of the workers are most
]
ENCODERS, GAMMAS, SEEDS = ("resnet18", "regnet_y_400mf", "cnn", "blind"), 5, 50


def sweep(folder: Path, *overrides: str) -> tuple[float, str]:
    """Seconds of a sweep as a command, imports included, and what it said."""
    settings = {**os.environ, "WANDB_SILENT": "true"}
    command = [sys.executable, "-m", "defm_rl.cli", "train", "-m", *overrides, f"hydra.sweep.dir={folder}"]
    start = time.perf_counter()
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def side_by_side(folder: Path, runs: int) -> dict[str, float]:
    """Runs in turn, and two at a time; and what the former take beyond what they say themselves."""
    seeds = f"seed={','.join(map(str, range(runs)))}"
    turn, _ = sweep(folder / "turn", *SHORT, seeds)
    side, _ = sweep(folder / "side", *SHORT, seeds, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    inside = [json.loads(file.read_text())["wall_s"] for file in (folder / "turn").glob("*/status.json")]
    start, _ = sweep(folder / "turn", *SHORT, seeds)  # all are finished: imports, and looking at them
    return {
        "runs": runs,
        "in_turn_s": turn,
        "two_at_a_time_s": side,
        "share": side / turn,
        "finished_again_s": start,
        "each_run_s": statistics.mean(inside),
        "overhead_of_each_s": (turn - start - sum(inside)) / runs,
    }


def finished(folder: Path) -> dict[str, float]:
    """A thousand runs that are finished, listed and skipped; without imports, and as a command."""
    gammas = [0.9 + 0.01 * index for index in range(GAMMAS)]
    for encoder in ENCODERS:
        config = to_config(compose_config([*TASK, f"encoder={encoder}"]))
        for gamma in gammas:
            algo = dataclasses.replace(config.algo, gamma=round(gamma, 2))
            for seed in range(SEEDS):
                one = dataclasses.replace(config, algo=algo, seed=seed)
                run = Run(folder / run_name(one))
                run.folder.mkdir(parents=True)
                status = Status(State.FINISHED, digest=run_digest(one), started=1.0, ended=2.0, wall_s=60.0)
                (run.folder / "status.json").write_text(json.dumps(dataclasses.asdict(status)))
    overrides = [*TASK, f"encoder={','.join(ENCODERS)}"]
    overrides += [f"algo.gamma={','.join(f'{gamma:.2f}' for gamma in gammas)}", f"seed=range({SEEDS})"]
    seconds, said = sweep(folder, *overrides)
    listed = re.search(r"(\d+) runs: (\d+) finished: skipped\.", said)
    assert listed is not None, said
    assert listed[1] == listed[2] == str(len(ENCODERS) * GAMMAS * SEEDS), said
    start = time.perf_counter()
    with contextlib.suppress(subprocess.CalledProcessError), contextlib.redirect_stdout(io.StringIO()):
        subprocess.run([sys.executable, "-c", "import defm_rl.commands.train"], check=True)
    return {"runs": int(listed[1]), "command_s": seconds, "imports_s": time.perf_counter() - start}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        which = sys.argv[1:] or ["finished", "side_by_side"]
        results = {}
        if "finished" in which:
            results["finished"] = finished(Path(place) / "finished")
        if "side_by_side" in which:
            results["side_by_side"] = side_by_side(Path(place), runs=8)
    print(json.dumps(results, indent=2))
