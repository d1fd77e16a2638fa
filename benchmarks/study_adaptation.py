"""The study of adaptation as commands: frozen, adapted, leave one sensor out, trained with the noise, and the settings.

    python benchmarks/study_adaptation.py navigation             prints them
    python benchmarks/study_adaptation.py navigation --run       runs them one after the other: hours on two cores

What is finished is left as it is, so that the same command goes on after an interruption. Every evaluation writes a
report (report.html, report.json) below the study's folder.
"""

import argparse
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

CAMERAS = ("stereo", "stereo_ladder", "kinect_nguyen", "zedx")
RANDOM = "encoder.weights=random"
STUDENTS = {"locomotion": "locomotion_student", "manipulation": "manipulation_student"}


def train(run: Path, *overrides: str) -> list[str]:
    return ["defm-rl", "train", *overrides, "evaluation.clips=0", f"hydra.run.dir={run}"]


def adapt(run: Path, name: str, cameras: tuple[str, ...] = CAMERAS, *settings: str) -> list[str]:
    return ["defm-rl", "adapt", str(run), f"sensors=[{','.join(cameras)}]", f"output={weights(run, name)}", *settings]


def weights(run: Path, name: str) -> Path:
    return run / "adapted" / f"{name}.safetensors"


def evaluate(run: Path, name: str, *settings: str) -> list[str]:
    adapted, report = f"adapted={weights(run, name)}", f"report={run.parent / 'reports' / f'{run.name}-{name}'}"
    return ["defm-rl", "evaluate", str(run), adapted, "sensors=all", "clips=0", report, *settings]


def adapted(run: Path, name: str, cameras: tuple[str, ...] = CAMERAS, *settings: str) -> Iterator[list[str]]:
    yield adapt(run, name, cameras, *settings)
    yield evaluate(run, name)


def leave_one_out(run: Path) -> Iterator[list[str]]:
    for left_out in CAMERAS:
        yield from adapted(run, f"without-{left_out}", tuple(name for name in CAMERAS if name != left_out))


def navigation(base: Path) -> Iterator[list[str]]:
    """Three seeds: frozen and adapted, leave one out, trained with noise, with its delay alone, and both adapted."""
    for seed in range(3):
        run, quick = base / f"ideal-{seed}", ("experiment=quickstart", f"seed={seed}", RANDOM)
        yield train(run, *quick)
        yield adapt(run, "all")
        yield evaluate(run, "all", "parts=true")
        yield from leave_one_out(run)
        for sensor in ("stereo", "zedx", "zedx_without_noise"):
            other = base / f"{sensor}-{seed}"
            yield train(other, *quick, f"env.sensor={sensor}")
            yield from adapted(other, "all")


def settings(base: Path) -> Iterator[list[str]]:
    """Encoders and features, each trained anew; frames, minutes and parts on the quick start's run of seed 0."""
    for encoder in ("regnet_y_400mf", "resnet18", "efficientnet_b0"):
        for features in ("P3", "P4", "global"):
            run = base / f"{encoder}-{features}"
            yield train(run, "experiment=quickstart", f"encoder={encoder}", f"encoder.features=[{features}]", RANDOM)
            yield from adapted(run, "all")
    run = base / "regnet_y_400mf-P3"
    for frames in (1000, 3000, 30_000):
        yield from adapted(run, f"frames-{frames}", CAMERAS, f"frames={frames}")
    for minutes in (1, 2, 10):
        yield from adapted(run, f"minutes-{minutes}", CAMERAS, f"minutes={minutes}")
    for parts in ("norms", "[stem]", "[stem,block1]"):
        yield from adapted(run, f"parts-{parts.strip('[]').replace(',', '-')}", CAMERAS, f"parts={parts}")


def student(base: Path, task: str, teacher: str) -> Iterator[list[str]]:
    run = base / "student"
    yield train(run, f"experiment={STUDENTS[task]}", f"teacher={teacher}", RANDOM)
    yield adapt(run, "all")
    yield evaluate(run, "all", "parts=true")
    yield from leave_one_out(run)


def finished(command: list[str]) -> bool:
    """Whether what a command leaves is there; an evaluation knows itself what it has finished."""
    made = {key: value for key, _, value in (argument.partition("=") for argument in command)}
    output = Path(made["output"]) if "output" in made else None
    trained = Path(made["hydra.run.dir"], "metrics.json") if "hydra.run.dir" in made else None
    return bool((output and output.exists()) or (trained and trained.exists()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("navigation", "settings", *STUDENTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--teacher", default="TEACHER", help="the run of a student's teacher")
    parser.add_argument("--run", action="store_true")
    chosen = parser.parse_args()
    parts = {"navigation": navigation, "settings": settings}
    base = chosen.folder / chosen.part
    commands = parts[chosen.part](base) if chosen.part in parts else student(base, chosen.part, chosen.teacher)
    for command in commands:
        print(shlex.join(command), flush=True)
        if chosen.run and not finished(command):
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
