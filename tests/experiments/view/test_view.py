"""`defm-rl view`: a page that works by itself in a browser, and Rerun's file."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from defm_rl import DepthEncoder
from defm_rl.commands import train, view
from defm_rl.experiments.view import looks
from defm_rl.experiments.view.looks import AS_RECORDED, look

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def scene(offset=0):
    """A floor, a wall 4 m away, and a box 1.5 m away with a hole beside it; metres."""
    depth = np.full((64, 96), 4.0, np.float32)
    depth[40:] = np.linspace(3.9, 1.6, 24)[:, None]
    depth[20:50, 20 + offset : 50 + offset] = 1.5
    depth[20:50, 50 + offset : 56 + offset] = 0
    return depth


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("recorded")
    for index in range(3):
        Image.fromarray((scene(10 * index) * 1000).astype(np.uint16)).save(path / f"frame_{index}.png")
    return path


@pytest.fixture(scope="module")
def encoder():
    return DepthEncoder("efficientnet_b0", weights="random", features=["P3", "P4"], compile="off")


def test_maps_are_cut_to_the_frame_and_mean_the_same_everywhere(encoder):
    frames = [scene(), scene()[:50, :90], scene()]
    seen = look(frames, ["stereo"], encoder)
    assert list(seen) == [AS_RECORDED, "stereo"]
    first, cut, again = (x.maps["P3"] for x in seen[AS_RECORDED])
    assert first.colours.shape == (8, 12, 3)
    assert cut.colours.shape == (7, 12, 3)
    assert first.cell_px == (8.0, 8.0)
    np.testing.assert_array_equal(first.colours, again.colours)
    np.testing.assert_array_equal(first.vectors, again.vectors)
    assert not np.array_equal(first.vectors, seen["stereo"][0].maps["P3"].vectors)
    norms = np.linalg.norm(first.vectors.astype(float) / 127, axis=2)
    assert norms == pytest.approx(1, abs=0.05)


@pytest.mark.slow
def test_a_vits_cells_cover_the_whole_frame():
    vit = DepthEncoder("vit_s14", weights="random", features="P14", compile="off")
    cells = look([scene()], [], vit)[AS_RECORDED][0].maps["P14"]
    assert cells.colours.shape == (4, 6, 3)
    assert cells.cell_px == (16.0, 16.0)


def test_the_background_is_what_is_farther():
    rng = np.random.default_rng(0)
    near = rng.random(200) < 0.3
    cells = np.where(near[:, None], [5.0, 0, 0], [-5.0, 0, 0]) + rng.normal(0, 0.5, (200, 3))
    for sign in (1, -1):
        np.testing.assert_array_equal(looks._foreground(sign * cells, np.where(near, 1.5, 4.0)), near)
    assert looks._foreground(rng.normal(size=(200, 3)) * [1, 0.1, 0.1], np.full(200, 1.0)).any()


def test_channels_are_what_the_networks_take():
    depth = scene()
    red, green, blue = looks.channels(depth)[0, 0] / 255
    assert red == pytest.approx(np.log1p(4) / np.log1p(100), abs=0.01)
    assert green == pytest.approx(np.log1p(4) / np.log1p(9), abs=0.01)
    assert blue == pytest.approx(1, abs=0.01)
    assert looks.channels(depth)[30, 52].max() == 0  # a hole


def page(folder, output, *arguments):
    settings = ["encoder=efficientnet_b0", "weights=random", f"output={output}", *arguments]
    assert view.main([str(folder), *settings]) == 0
    return output


@pytest.mark.usefixtures("untraced")
def test_the_page_is_whole_by_itself(folder, tmp_path):
    text = page(folder, tmp_path / "deep" / "view.html", "frames=2", "maps=P4").read_text()
    assert not re.search(r"""(src|href)=|url\(|@import|https?://""", text)
    data = json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])
    assert [name.rpartition("/")[2] for name in data["frames"]] == ["frame_0.png (1)", "frame_2.png (1)"]
    assert list(data["cameras"]) == [AS_RECORDED]
    assert list(data["cameras"][AS_RECORDED][0]["maps"]) == ["P4"]
    assert "RANDOM, not the published ones" in text


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "Name what to look at"),
        (["a", "b"], "Name one source"),
        (["nowhere.bag", "encoder=none"], "no such folder or file"),
        (["x", "output=x.png"], r".html"),
        (["x", "fraems=2"], "frames"),
        (["env=navigaton", "encoder=none"], "navigation"),
        (["x", "sensors=stero"], "stereo"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_write(arguments, says, capsys):
    assert view.main(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("defm-rl view: ")
    assert says in said


@pytest.mark.slow
def test_a_task_is_looked_at_as_it_is_played(tmp_path):
    output = tmp_path / "view.html"
    arguments = ["env=navigation", "env.level=one_wall", "env.renderer=rays", "encoder=none", "frames=3"]
    assert view.main([*arguments, f"output={output}"]) == 0
    text = output.read_text()
    assert "step 6" in text
    assert "Navigation-v0" in text


@pytest.mark.slow
def test_as_many_frames_as_were_asked_for_are_shown_of_a_task_with_two_cameras(tmp_path):
    output = tmp_path / "view.html"
    arguments = ["experiment=manipulation_student", "encoder=none", "frames=3"]
    assert view.main([*arguments, f"output={output}"]) == 0
    assert '"frames":["step 0","step 3","step 6"]' in output.read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_a_run_is_looked_at_as_its_policy_plays(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    task = ["experiment=navigation", "env.num_envs=2", "env.depth_size=[24,48]", "evaluation.episodes=2"]
    algo = ["algo.n_steps=8", "algo.batch_size=16", "algo.n_epochs=1", "algo.total_steps=16", "evaluation.clips=0"]
    for name, encoder in (
        ("seeing", ["encoder=regnet_y_400mf", "encoder.weights=random"]),
        ("blind", ["encoder=blind"]),
    ):
        assert train.main([*task, *algo, *encoder, f"hydra.run.dir={name}"]) == 0
    assert view.main(["seeing", "encoder=none", "frames=2"]) == 0
    text = (tmp_path / "view.html").read_text()
    assert "driven by seeing" in text
    assert '"frames":["step 0","step 3"]' in text
    assert view.main(["blind", "encoder=none"]) == 2
    assert "sees no depth" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_in_a_browser_without_a_network(folder, tmp_path, browser):
    """Depth is read to the millimetre; points, cameras, maps and frames can be chosen; nothing fails or is fetched."""
    file = page(folder, tmp_path / "view.html", "sensors=[stereo]")
    context = browser.new_context(offline=True, viewport={"width": 1360, "height": 900})
    tab = context.new_page()
    failed, fetched = [], []
    tab.on("pageerror", lambda error: failed.append(str(error)))
    tab.on("console", lambda message: failed.append(message.text) if message.type == "error" else None)
    tab.on("request", lambda request: fetched.append(request.url) if request.url.startswith("http") else None)
    tab.goto(file.as_uri())

    def after(action):
        before = int(tab.evaluate("+document.body.dataset.drawn || 0"))
        action()
        tab.wait_for_function(f"+document.body.dataset.drawn > {before}")

    def click(row, column, canvas="depth"):
        box = tab.locator(f"#{canvas}").bounding_box()
        at = {"x": (column + 0.5) / 96 * box["width"], "y": (row + 0.5) / 64 * box["height"]}
        after(lambda: tab.locator(f"#{canvas}").click(position=at))
        return tab.inner_text("#here")

    tab.wait_for_function("document.body.dataset.drawn")
    assert click(30, 30) == "(30, 30) 1.500 m"
    assert click(30, 52) == "(52, 30) hole"
    holes = 100 * (scene() == 0).mean()
    assert tab.inner_text("#holes") == f"holes {holes:.1f} %"
    assert click(10, 80, "pca") == "(80, 10) 4.000 m"
    similar = "() => document.querySelector('#similarity').toDataURL()"
    here = tab.evaluate(similar)
    click(30, 30, "similarity")
    assert tab.evaluate(similar) != here
    after(lambda: tab.fill("#frame", "2"))
    assert tab.inner_text("#number") == "3 of 3"
    assert click(30, 30) == "(30, 30) 4.000 m"  # the box has moved
    after(lambda: tab.select_option("#camera", "stereo"))
    assert tab.inner_text("#holes") != f"holes {holes:.1f} %"
    after(lambda: tab.select_option("#level", "P5"))
    assert tab.inner_text("#cosine").startswith("P5, cosine -")
    near = tab.evaluate("() => document.querySelector('#depth').toDataURL()")
    after(lambda: tab.fill("#far", "1"))
    assert tab.inner_text("#metres") == "1.00 m"
    assert tab.evaluate("() => document.querySelector('#depth').toDataURL()") != near
    after(lambda: tab.click("#play"))
    assert failed == []
    assert fetched == []
    context.close()


@pytest.mark.slow
@pytest.mark.usefixtures("untraced")
def test_rerun_gets_depth_in_metres(folder, tmp_path):
    rerun = pytest.importorskip("rerun")
    file = page(folder, tmp_path / "view.rrd", "maps=P4")
    recording = rerun.dataframe.load_recording(file)
    columns = {str(column) for column in recording.schema().component_columns()}
    said = " ".join(columns)
    for entity in ("/as_recorded/depth", "/as_recorded/channels/3", "/as_recorded/P4"):
        assert entity in said
    table = recording.view(index="frame", contents="/as_recorded/depth").select().read_all()
    assert table.num_rows == 3
    meter = next(name for name in table.column_names if "eter" in name)
    assert table.column(meter)[0].as_py() == [1.0]
    pixels = next(name for name in table.column_names if name.endswith("buffer") or "ImageBuffer" in name)
    depth = np.frombuffer(bytes(table.column(pixels)[0].as_py()[0]), np.float32).reshape(64, 96)
    np.testing.assert_allclose(depth, scene(), atol=1e-3)
