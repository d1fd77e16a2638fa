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
EVALUATED = f"[ideal,redwood,{','.join(CAMERAS)}]"  # the others end at 1.5 m, which no encoder mends
STUDENTS = {"locomotion": "locomotion_student", "manipulation": "manipulation_student"}
SEEN = {  # what is left where cameras are blind to a task: two that see something, and two without their range
    "locomotion": ("stereo", "stereo_ladder"),
    "manipulation": ("stereo_without_range", "kinect_nguyen_without_range"),
}
STEPS = 800  # of adapting: two minutes on two quiet cores. Steps, not minutes, so that a busy machine finds the same
LONGER = 2000


def train(run: Path, *overrides: str) -> list[str]:
    return ["defm-rl", "train", *overrides, "evaluation.clips=0", f"hydra.run.dir={run}"]


def navigate(run: Path, *overrides: str) -> list[str]:
    """The quick start by its steps alone."""
    return train(run, "experiment=quickstart", "algo.time_limit_s=null", RANDOM, *overrides)


def adapt(run: Path, name: str, cameras: tuple[str, ...] = CAMERAS, *settings: str, steps: int = STEPS) -> list[str]:
    limits = [f"steps={steps}", "minutes=600"]
    return [
        "defm-rl",
        "adapt",
        str(run),
        f"sensors=[{','.join(cameras)}]",
        f"output={weights(run, name)}",
        *limits,
        *settings,
    ]


def weights(run: Path, name: str) -> Path:
    return run / "adapted" / f"{name}.safetensors"


def evaluate(run: Path, name: str, *settings: str, sensors: str = EVALUATED) -> list[str]:
    adapted, report = f"adapted={weights(run, name)}", f"report={run.parent / 'reports' / f'{run.name}-{name}'}"
    return ["defm-rl", "evaluate", str(run), adapted, f"sensors={sensors}", "clips=0", report, *settings]


def adapted(run: Path, name: str, *settings: str, steps: int = STEPS) -> Iterator[list[str]]:
    yield adapt(run, name, CAMERAS, *settings, steps=steps)
    yield evaluate(run, name)


def leave_one_out(run: Path) -> Iterator[list[str]]:
    for left_out in CAMERAS:
        yield adapt(run, f"without-{left_out}", tuple(name for name in CAMERAS if name != left_out))
        yield evaluate(run, f"without-{left_out}", sensors=f"[ideal,{left_out}]")


def navigation(base: Path) -> Iterator[list[str]]:
    """Three seeds: frozen and adapted; then leave one out, trained with noise, with delay alone, and both adapted."""
    for seed in range(3):
        run = base / f"ideal-{seed}"
        yield navigate(run, f"seed={seed}")
        yield from adapted(run, "all")
    for seed in range(3):
        yield from adapted(base / f"ideal-{seed}", "longer", steps=LONGER)
    for seed in range(3):
        yield from leave_one_out(base / f"ideal-{seed}")
        for sensor in ("zedx_without_noise", "stereo"):
            run = base / f"{sensor}-{seed}"
            yield navigate(run, f"seed={seed}", f"env.sensor={sensor}")
            yield from adapted(run, "all")


HOLES = (*((seed, share, STEPS) for share in (0.1, 0.3) for seed in range(3)), (0, 0.3, LONGER))


def holes(base: Path) -> Iterator[list[str]]:
    """Patches lost in the training: for a camera that is not adapted to, stereo_ladder, and adapted to all four."""
    others = tuple(name for name in CAMERAS if name != "stereo_ladder")
    for seed, share, steps in HOLES:
        run, name = base.parent / "navigation" / f"ideal-{seed}", f"holes-{share}-{steps}"
        yield adapt(run, name, others, f"holes={share}", steps=steps)
        yield evaluate(run, name)
    for seed in range(3):
        yield from adapted(base.parent / "navigation" / f"ideal-{seed}", "all-holes-0.1", "holes=0.1")


def settings(base: Path) -> Iterator[list[str]]:
    """Encoders and features, each trained anew; frames, steps and parts on the quick start's run of seed 0."""
    for encoder, features in (
        ("regnet_y_400mf", "P3"),
        ("regnet_y_400mf", "P4"),
        ("regnet_y_400mf", "global"),
        ("resnet18", "P3"),
        ("efficientnet_b0", "P3"),
    ):
        run = base / f"{encoder}-{features}"
        yield navigate(run, f"encoder={encoder}", f"encoder.features=[{features}]")
        yield from adapted(run, "all")
    run = base / "regnet_y_400mf-P3"
    for frames in (500, 2000):
        yield from adapted(run, f"frames-{frames}", f"frames={frames}")
    for steps in (100, 300, 2000):
        yield from adapted(run, f"steps-{steps}", steps=steps)
    for parts in ("norms", "[stem]", "[stem,block1]"):
        yield from adapted(run, f"parts-{parts.strip('[]').replace(',', '-')}", f"parts={parts}")


def student(base: Path, task: str, teacher: Path | None) -> Iterator[list[str]]:
    if teacher is None:
        teacher = base / "teacher"
        yield train(teacher, f"experiment={task}_teacher")
    run = base / "student"
    yield train(run, f"experiment={STUDENTS[task]}", f"teacher={teacher}", RANDOM)
    yield from adapted(run, "all")
    yield adapt(run, "seen", SEEN[task])
    yield evaluate(run, "seen", sensors=f"[ideal,{','.join(SEEN[task])}]")
    yield from leave_one_out(run)


def finished(command: list[str]) -> bool:
    """Whether what a command leaves is there; an evaluation knows itself what it has finished."""
    made = {key: value for key, _, value in (argument.partition("=") for argument in command)}
    output = Path(made["output"]) if "output" in made else None
    trained = Path(made["hydra.run.dir"], "metrics.json") if "hydra.run.dir" in made else None
    return bool((output and output.exists()) or (trained and trained.exists()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("navigation", "holes", "settings", *STUDENTS))
    parser.add_argument("--folder", type=Path, default=Path("runs/adaptation"))
    parser.add_argument("--teacher", type=Path, help="the run of a student's teacher; without it one is trained")
    parser.add_argument("--run", action="store_true")
    chosen = parser.parse_args()
    parts = {"navigation": navigation, "holes": holes, "settings": settings}
    base = chosen.folder / chosen.part
    commands = parts[chosen.part](base) if chosen.part in parts else student(base, chosen.part, chosen.teacher)
    for command in commands:
        print(shlex.join(command), flush=True)
        if chosen.run and not finished(command):
            subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
