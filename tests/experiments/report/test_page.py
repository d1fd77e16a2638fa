"""The page is whole by itself, well-formed, and says what a reader must not miss."""

import re
from html.parser import HTMLParser

import numpy as np
import pytest

from defm_rl.experiments.report import charts, page, summary
from defm_rl.experiments.report.arms import adapted_arm
from defm_rl.experiments.report.clips import Clip
from defm_rl.experiments.report.scenes import EncoderReport, Pair
from defm_rl.experiments.report.write import write_report

VOID = {"meta", "img", "wbr", "br", "link", "input", "hr"}


class Outline(HTMLParser):
    """Checks that tags are closed in order; collects ids, references and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.ids, self.references, self.text, self.tags = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("href", "xlink:href", "src"):
                self.references.append(value)
            self.references += re.findall(r"url\(([^)]*)\)", value or "")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def encoder_report():
    row = {"hole_share": 0.01, "cosine": 0.9, "cka": 0.8, "shift": 0.3, "nearest_cosine": 0.7, "mmd": 0.01}
    cameras = [
        {"camera": name, **row, "mmd_to_recorded": 0.2, "farther_low": 0.0, "farther_high": 0.1}
        for name in ("ideal", "stereo")
    ]
    cameras.append(
        {**cameras[0], "camera": "recorded", "cosine": None, "cka": None, "shift": None, "mmd_to_recorded": None}
    )
    facts = {
        "encoder": "defm_resnet18", "task": "Navigation-v0, boxes", "weights": "random", "sha256": "cd" * 32,
        "features": ["P4"], "channels": 8, "frames": 16,
        "image_size": [24, 48], "cameras": cameras, "nearest_to_recorded": ["stereo"],
    }  # fmt: skip
    picture = np.zeros((6, 12, 3), np.uint8)
    return EncoderReport(facts, [Pair("ideal", picture, picture, 0.01)], 4.2)


@pytest.fixture(scope="module")
def html(study, tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    arms, results = study
    content = summary.summarize(results, arms, ["ideal", "stereo", "zedx"], "success")
    content["options"] = {"episodes": 40, "first_layout": 100}
    content["problems"] = ["runs/<broken> holds no checkpoint"]
    content["recorded"] = {"path": "recordings", "files": 2, "frames": 16}
    clip = Clip(arms[0].name, "stereo", 101, "collision", b"GIF89a")
    file = write_report(tmp_path / "report", "A study", content, arms=arms, encoders=[encoder_report()], clips=[clip])
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["report.csv", "report.html", "report.json"]
    return file.read_text()


def test_the_page_is_well_formed_and_needs_nothing_beside_it(html):
    outline = Outline(html)
    assert len(outline.ids) == len(set(outline.ids))
    for reference in outline.references:
        assert reference.startswith("data:") or reference[1:] in outline.ids, reference
    assert not {"script", "link", "iframe"} & set(outline.tags)
    assert "@import" not in html
    assert len(html) < 1_000_000


def test_the_page_says_what_must_not_be_missed(html):
    text = re.sub(r"\s+", " ", "".join(Outline(html).text))
    assert "Random weights. These ran with random encoder weights" in text
    assert "runs/<broken> holds no checkpoint" in text  # escaped in the source
    assert "30.0 %" in text  # success behind zedx
    assert "−60.0" in text  # against ideal
    assert "layouts (100 to 139)" in text
    assert "collision · efficientnet_b0" in text
    assert "stereo is the nearest to them" in text
    assert "abababababab" in text  # the weights' sha256


def test_a_page_without_policies_is_whole_too(tmp_path):
    content = {"problems": [], "recorded": None, "options": {}}
    file = write_report(tmp_path, "Feature gap", content, encoders=[encoder_report()])
    text = "".join(Outline(file.read_text()).text)
    assert "no policy is involved" in text
    assert "Random weights." in text
    assert (tmp_path / "report.csv").read_text().count("defm_resnet18,random") == 3


def test_the_banner_names_an_encoder_once():
    policy = {"name": "A (frozen)", "encoder": "resnet18 (frozen, random weights)", "weights": "random"}
    parts = [{"encoder": name, "weights": "random"} for name in ("defm_resnet18", "defm_resnet50")]
    assert page._random_weights({"policies": [policy], "encoders": parts}) == ["A (frozen)", "defm_resnet50"]


def test_cameras_that_cannot_be_told_apart_are_all_named(tmp_path):
    report = encoder_report()
    report.summary["nearest_to_recorded"] = ["stereo", "ideal"]
    content = {"problems": [], "recorded": None, "options": {}}
    text = "".join(Outline(write_report(tmp_path, "Feature gap", content, encoders=[report]).read_text()).text)
    assert "Which of stereo, ideal is the nearest, these frames cannot tell." in text
    assert "0.0000 to 0.1000 more" in text


def test_numbers_are_written_for_people():
    assert page.number(None) == "–"
    assert page.number(-0.25, 2) == "−0.25"
    assert page.signed(-0.0001, percent=True) == "0"
    assert page.signed(-0.125, percent=True) == "−12.5"
    assert page.signed(0.125, percent=False) == "+0.125"
    assert (page.p_value(3e-7), page.p_value(0.0042), page.p_value(0.3), page.p_value(None)) == (
        "< 0.0001",
        "0.0042",
        "0.30",
        "–",
    )
    assert page.commit("0123456789abcdef+changes") == "0123456789+changes"
    assert page.commit(None) == "no checkout"


def test_an_adapted_policy_was_trained_once(study, tmp_path):
    arms, _ = study
    with_adapted = [*arms, adapted_arm(arms[0], tmp_path / "adapted.safetensors")]
    assert charts.learning_curves(with_adapted) == charts.learning_curves(arms)
    assert charts.learning_curves([with_adapted[-1]]) is not None
