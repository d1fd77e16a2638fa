"""Robots by name, by file and from robot_descriptions, and what is said where something is missing."""

import sys

import pytest

from defm_rl.envs.robots import ROBOTS, check_robot, load_robot

ARM = """
<mujoco model="arm">
  <worldbody>
    <body name="base"><body name="link">
      <joint name="elbow"/><geom name="tube" size="0.1"/><site name="tip"/><camera name="wrist"/>
    </body></body>
  </worldbody>
  <actuator><motor name="lift" joint="elbow"/></actuator>
  <sensor><jointpos name="angle" joint="elbow"/></sensor>
</mujoco>"""


@pytest.fixture
def arm_file(tmp_path):
    path = tmp_path / "arm_of_mine.xml"
    path.write_text(ARM)
    return path


@pytest.fixture
def collection(tmp_path, monkeypatch, arm_file):
    """A package that does what robot_descriptions does: importing a robot's module fetches it."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "robot_descriptions"]:
        monkeypatch.delitem(sys.modules, name)
    package = tmp_path / "site" / "robot_descriptions"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "arm7_mj_description.py").write_text(f"MJCF_PATH: str = {str(arm_file)!r}")
    (package / "far_mj_description.py").write_text("raise OSError('Could not resolve host: example.org')")
    (package / "plain_description.py").write_text("URDF_PATH: str = 'plain.urdf'")
    monkeypatch.syspath_prepend(package.parent)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "robot_descriptions"]:
        del sys.modules[name]


@pytest.mark.parametrize("robot", ROBOTS)
def test_every_robot_that_comes_along_compiles(robot):
    model = load_robot(robot).compile()
    assert model.nu > 0


def test_a_file_is_a_robot(arm_file):
    assert [body.name for body in load_robot(str(arm_file)).bodies] == ["world", "base", "link"]


def test_robots_come_from_robot_descriptions_by_short_and_full_name(collection):
    for name in ("arm7", "arm7_mj_description"):
        assert load_robot(f"robot_descriptions:{name}").modelname == "arm"


def test_a_failed_download_names_the_way_around(collection):
    with pytest.raises(RuntimeError, match=r"OSError: Could not resolve host.*path of its \.xml file"):
        load_robot("robot_descriptions:far")


def test_robots_that_the_collection_has_not_are_errors(collection):
    with pytest.raises(ValueError, match=r"no MJCF of 'amr7'.*robot_descriptions list"):
        load_robot("robot_descriptions:amr7")
    with pytest.raises(ValueError, match="plain_description has no MJCF"):
        load_robot("robot_descriptions:plain_description")


def test_a_missing_collection_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "robot_descriptions", None)
    with pytest.raises(ImportError, match="pip install robot_descriptions"):
        load_robot("robot_descriptions:go1")


def test_unknown_names_and_files_are_errors(tmp_path):
    with pytest.raises(ValueError, match="unknown robot 'rovr', did you mean 'rover'"):
        load_robot("rovr")
    with pytest.raises(FileNotFoundError, match=r"no robot file .*nowhere\.xml"):
        load_robot(str(tmp_path / "nowhere.xml"))
    broken = tmp_path / "broken.xml"
    broken.write_text("<mujoco><wordbody/></mujoco>")
    with pytest.raises(ValueError, match=r"(?s)cannot read the robot .*broken\.xml.*wordbody"):
        load_robot(str(broken))


def test_all_that_is_missing_is_said_at_once_with_what_there_is(arm_file):
    spec = load_robot(str(arm_file))
    check_robot(
        spec,
        "mine",
        bodies=["link"],
        joints=["elbow"],
        geoms=["tube"],
        sites=["tip"],
        cameras=["wrist"],
        actuators=["lift"],
        sensors=["angle"],
    )
    with pytest.raises(ValueError, match="robot 'mine' lacks") as caught:
        check_robot(spec, "mine", joints=["elbow", "shoulder", "hip"], sensors=["force"], cameras=["wrist"])
    assert "joints shoulder, hip (there are: elbow)" in str(caught.value)
    assert "sensors force (there are: angle)" in str(caught.value)
    assert "cameras" not in str(caught.value)
    with pytest.raises(ValueError, match="sites tip"):
        check_robot(load_robot("rover"), "rover", sites=["tip"])
