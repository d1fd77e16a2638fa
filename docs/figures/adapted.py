"""The film of the README: one policy behind one camera, with its encoder as it was trained and as it was adapted.

python docs/figures/adapted.py RUN FILE [sensor=stereo] [layouts=40]
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageSequence

from defm_rl.experiments import animation, environments
from defm_rl.experiments.adapted import load_adapted
from defm_rl.experiments.episodes import run_episodes
from defm_rl.experiments.evaluation import load
from defm_rl.experiments.recording import Recording, filmed
from defm_rl.experiments.runs import Run

FIRST = 2_000_000
SHOWN = 3
OUT = Path(__file__).parent.parent / "images" / "adapted.gif"


def record(loaded, layouts: range, sensor: str) -> dict[int, Recording]:
    """The episodes of a policy by layout."""
    config, policy, encoder = loaded
    camera = filmed(config, layouts, sensor=sensor)
    recordings = {}
    for episode in run_episodes(policy, environments.encode_once(camera, config.encoder, encoder), layouts):
        recordings[episode.layout] = camera.finished[episode.layout]
        recordings[episode.layout].outcome = episode
    camera.close()
    return recordings


def frames(recording: Recording, title: str) -> list[Image.Image]:
    """The pictures of one film."""
    with tempfile.TemporaryDirectory() as folder:
        animation.write_gif([recording], Path(folder) / "film.gif", title=title)
        with Image.open(Path(folder) / "film.gif") as film:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]


def main() -> None:
    run, file = Run(Path(sys.argv[1])), Path(sys.argv[2])
    settings = dict(text.split("=") for text in sys.argv[3:])
    sensor = settings.get("sensor", "stereo")
    layouts = range(FIRST, FIRST + int(settings.get("layouts", "40")))
    before, after = record(load(run), layouts, sensor), record(load_adapted(run, file), layouts, sensor)
    won = [layout for layout in layouts if after[layout].outcome.success and not before[layout].outcome.success]
    pictures, durations = [], []
    for layout in won[:SHOWN]:
        rows = [
            frames(before[layout], f"behind the camera {sensor}: the encoder as it was trained"),
            frames(after[layout], "the same policy, camera and layout: the encoder adapted"),
        ]
        for step in range(max(map(len, rows))):
            parts = [row[min(step, len(row) - 1)] for row in rows]
            picture = Image.new("RGB", (parts[0].width, sum(part.height for part in parts)), "white")
            for index, part in enumerate(parts):
                picture.paste(part, (0, index * part.height))
            pictures.append(picture)
            durations.append(animation.FRAME_MS)
        durations[-1] = animation.PAUSE_MS
    palette = pictures[len(pictures) // 2].quantize(96)
    small = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    small[0].save(OUT, save_all=True, append_images=small[1:], duration=durations, loop=0, optimize=False)
    reached = [sum(recording.outcome.success for recording in films.values()) for films in (before, after)]
    sys.stdout.write(f"{reached[0]} before and {reached[1]} after, of {len(layouts)} layouts; {OUT}\n")


if __name__ == "__main__":
    main()
