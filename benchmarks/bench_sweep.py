"""What a sweep costs beyond its runs: eight short ones in turn and two at a time, and a thousand that are finished."""

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from omegaconf import OmegaConf

from defm_rl.experiments.config import compose_config
from defm_rl.experiments.identity import run_digest, run_name
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.status import State, Status

RUNS = int(os.environ.get("RUNS", 8))
TASK = ["experiment=navigation", "env.num_envs=8", "evaluation.clips=0"]
SHORT = [
    *TASK,
    "encoder=blind",
    "env.depth_size=[24,48]",
    "evaluation.episodes=8",
    "algo.n_steps=64",
    "algo.total_steps=32768",  # a dozen seconds: of shorter runs, the imports of the workers are most
    f"seed=range({RUNS})",
]
ENCODERS, GAMMAS, SEEDS = ("resnet18", "regnet_y_400mf", "cnn", "blind"), 5, 50
_SUCCESS = {"mean": 0.9, "low": 0.85, "high": 0.94, "episodes": 200}
METRICS = {"evaluation": {"success_rate": _SUCCESS, "reward": _SUCCESS}, "training": {"steps": 2_000_000}}


def command(*arguments: str) -> tuple[float, str]:
    """Seconds of a command, imports included, and what it said."""
    settings = {**os.environ, "WANDB_SILENT": "true"}
    start = time.perf_counter()
    line = [sys.executable, "-m", "defm_rl.cli", *arguments]
    done = subprocess.run(line, env=settings, capture_output=True, text=True, check=True)
    return time.perf_counter() - start, done.stdout


def sweep(folder: Path, *overrides: str) -> tuple[float, str]:
    return command("train", "-m", *overrides, f"hydra.sweep.dir={folder}")


def walls(folder: Path) -> list[float]:
    """What each run of a sweep says that it took."""
    return [json.loads(file.read_text())["wall_s"] for file in folder.glob("*/status.json")]


def in_turn(folder: Path) -> dict[str, float]:
    """Runs one after the other, and what each takes beyond what it says itself."""
    seconds, _ = sweep(folder, *SHORT)
    inside = walls(folder)
    start, _ = sweep(folder, *SHORT)  # all are finished: imports, and looking at them
    overhead = (seconds - start - sum(inside)) / RUNS
    return {"s": seconds, "each_s": statistics.mean(inside), "again_s": start, "overhead_of_each_s": overhead}


def two_at_a_time(folder: Path) -> dict[str, float]:
    seconds, _ = sweep(folder, *SHORT, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    return {"s": seconds, "each_s": statistics.mean(walls(folder))}


def finished(folder: Path) -> dict[str, float]:
    """A thousand runs that are finished, skipped by a sweep and listed; as commands, imports included."""
    gammas = [round(0.9 + 0.01 * index, 2) for index in range(GAMMAS)]
    for encoder in ENCODERS:
        config = to_config(compose_config([*TASK, f"encoder={encoder}"]))
        saved = OmegaConf.to_yaml(OmegaConf.structured(config))
        for gamma in gammas:
            for seed in range(SEEDS):
                one = dataclasses.replace(config, algo=dataclasses.replace(config.algo, gamma=gamma), seed=seed)
                status = Status(State.FINISHED, digest=run_digest(one), started=1.0, ended=2.0, wall_s=60.0)
                run = folder / run_name(one)
                run.mkdir(parents=True)
                (run / "config.yaml").write_text(saved)
                (run / "metrics.json").write_text(json.dumps(METRICS))
                (run / "status.json").write_text(json.dumps(dataclasses.asdict(status)))
    runs = len(ENCODERS) * GAMMAS * SEEDS
    swept = [f"encoder={','.join(ENCODERS)}", f"algo.gamma={','.join(map(str, gammas))}", f"seed=range({SEEDS})"]
    skipped_s, said = sweep(folder, *TASK, *swept)
    assert f"{runs} runs: {runs} finished: skipped." in said, said
    listed_s, said = command("runs", str(folder))
    assert f"{runs} runs: {runs} finished" in said, said
    imports = [sys.executable, "-c", "import defm_rl.commands.train"]
    start = time.perf_counter()
    subprocess.run(imports, check=True)
    imports_s = time.perf_counter() - start
    return {"runs": runs, "skipped_s": skipped_s, "listed_s": listed_s, "imports_of_train_s": imports_s}


if __name__ == "__main__":
    parts = {part.__name__: part for part in (finished, in_turn, two_at_a_time)}
    with tempfile.TemporaryDirectory() as place:
        for name in sys.argv[1:] or parts:
            print(json.dumps({name: parts[name](Path(place) / name)}, indent=2), flush=True)
