"""`defm-rl probe`: labelled depth in every form, figures of every encoder behind every camera, and what is refused."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from defm_rl import DepthEncoder, adaptation
from defm_rl.adaptation import Frames
from defm_rl.commands import probe

SIZE = (32, 64)
SMALL = ["encoders=efficientnet_b0", "weights=random", "steps=60", "segmentation_steps=20", "cache=none"]


def wall(near, rng):
    """Millimetres of a floor before a wall that is near or far, and which pixels are the wall's."""
    rows = np.linspace(0, 1, SIZE[0])[:, None]
    floor = 800 / np.maximum(rows, 0.15) + np.zeros(SIZE)
    distance = rng.uniform(900, 1200) if near else rng.uniform(2500, 3500)
    image = np.minimum(floor, distance) + rng.normal(0, 2, SIZE)
    return image.astype(np.uint16), (floor >= distance).astype(np.uint8)


@pytest.fixture
def run(capsys, caplog):
    """Runs the command; its exit status, and all that it says."""

    def run(*arguments):
        caplog.clear()
        status = probe.main(list(arguments))
        return status, capsys.readouterr().err + caplog.text

    return run


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "no folder of labelled depth"),
        (["a", "b"], "one source"),
        (["probes=[knn,linaer]"], "probes=linaer: there is no such probe"),
        (["encodrs=resnet18"], "encoders"),
        (["sensors=[stero]"], "stereo"),
        (["output=x.csv"], r".json file"),
        (["frames=3"], "frames must be at least 20"),
        (["encoders=resnet81", "weights=random"], "Did you mean"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(arguments, says, run):
    status, said = run(*arguments)
    assert status == 2
    assert said.startswith("defm-rl probe: ")
    assert says in said


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_a_folder_of_classes(tmp_path, run):
    rng = np.random.default_rng(0)
    for kind in ("near", "far"):
        (tmp_path / "walls" / kind).mkdir(parents=True)
        for index in range(6):
            video = np.stack([wall(kind == "near", rng)[0] for _ in range(5)])
            np.save(tmp_path / "walls" / kind / f"{index}.npy", video)
        Image.fromarray(video[0]).save(tmp_path / "walls" / kind / "one.png")
    output = tmp_path / "figures.json"
    arguments = [str(tmp_path / "walls"), *SMALL, "sensors=[ideal,stereo]", f"output={output}"]
    status, said = run(*arguments)
    assert status == 0
    assert "walls: 2 classes, " in said
    assert "RANDOM weights" in said
    figures = json.loads(output.read_text())
    rows = {
        (row["encoder"], row["camera"], row["probe"]): row["top_1"]
        for row in figures["rows"]
        if row.get("neighbours", 20) == 20
    }
    assert len(rows) == 3 * 2 * 2
    assert rows["defm_efficientnet_b0", "ideal", "linear"]["low"] > 0.6
    assert rows["constant", "ideal", "linear"]["mean"] < 0.7
    assert figures["tasks"][0]["classes"] == ["far", "near"]
    assert figures["rows"][0]["sha256"]
    assert "torch" in figures["made_by"]["versions"]


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_a_folder_of_masks_of_a_split(tmp_path, run):
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("val", 8)):
        for part in ("depth", "masks"):
            (tmp_path / "set" / split / part).mkdir(parents=True)
        for index in range(count):
            depth, mask = wall(index % 2, rng)
            Image.fromarray(depth).save(tmp_path / "set" / split / "depth" / f"{index}.png")
            Image.fromarray(mask).save(tmp_path / "set" / split / "masks" / f"{index}.png")
    status, said = run(str(tmp_path / "set"), *SMALL)
    assert status == 0
    assert "set: 2 classes of pixels, 20 frames to learn from, 8 to test on" in said
    (tmp_path / "set" / "val" / "masks" / "3.png").unlink()
    status, said = run(str(tmp_path / "set"), *SMALL)
    assert status == 2
    assert "3.png has no mask" in said


def png(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize("labels", ["classes", "masks"])
def test_a_dataset_in_the_form_of_the_published_benchmarks(tmp_path, run, monkeypatch, labels):
    """Parquet files with columns id, depth (16-bit PNG) and label: inverse depth and classes, or depth and masks."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rng = np.random.default_rng(0)
    folder = tmp_path / "defm-bench"
    (folder / "data").mkdir(parents=True)
    kind = datasets.ClassLabel(names=["far", "near"]) if labels == "classes" else datasets.Image()
    features = datasets.Features({"id": datasets.Value("string"), "depth": datasets.Image(), "label": kind})
    for split, count in (("train", 40), ("validation", 20)):
        walls = [wall(index % 2, rng) for index in range(count)]
        inverse = labels == "classes"
        depth = [png((2e7 / depth).astype(np.uint16) if inverse else depth) for depth, _ in walls]
        label = [index % 2 for index in range(count)] if inverse else [png(mask) for _, mask in walls]
        rows = {"id": [str(index) for index in range(count)], "depth": depth, "label": label}
        data = datasets.Dataset.from_dict(rows, features=features)
        data.to_parquet(folder / "data" / f"{split}-00000-of-00001.parquet")
    arguments = [str(folder), *SMALL, *(["recorded_unit=inverse"] if labels == "classes" else [])]
    status, said = run(*arguments)
    assert status == 0, said
    what = "classes" if labels == "classes" else "classes of pixels"
    assert f"defm-bench: 2 {what}, 40 frames to learn from, 20 to test on" in said


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_an_adapted_encoder_is_tested_by_the_heads_of_its_parent(tmp_path, run):
    encoder = DepthEncoder("efficientnet_b0", weights="random")
    frames = Frames.of(torch.rand(64, 32, 32) * 4 + 0.5)
    settings = adaptation.Settings(minutes=1, steps=2, validate_every=1)
    adapted = adaptation.adapt(encoder, frames, ["stereo"], settings=settings, progress=False)
    file = adapted.save(tmp_path / "stereo.safetensors")
    output = tmp_path / "figures.json"
    arguments = [*SMALL, "frames=30", "probes=linear", "sensors=[stereo]", f"adapted={file}", f"output={output}"]
    status, said = run(*arguments)
    assert status == 0, said
    rows = [row for row in json.loads(output.read_text())["rows"] if row["task"] == "object"]
    assert [row["encoder"] for row in rows[:2]] == ["defm_efficientnet_b0", "defm_efficientnet_b0 adapted"]
    assert rows[0]["learning_rate"] == rows[1]["learning_rate"]
    assert rows[0]["sha256"] != rows[1]["sha256"]
    status, said = run(*arguments, "encoders=regnet_y_400mf")
    assert status == 2
    assert "not every one was made of one of the encoders" in said
