"""A training's history is one line, whoever wrote it and however often it was begun."""

from defm_rl.experiments import history


def test_rows_beyond_a_step_and_torn_ones_are_cut(tmp_path):
    file = tmp_path / "history.csv"
    assert not history.cut(file, 10)
    for steps in (64, 128, 192):
        history.append(file, {"steps": steps, "reward": 0.5})
    with file.open("a") as text:
        text.write("25")  # a process that was killed while it wrote
    assert history.cut(file, 128)
    assert not history.cut(file, 128)
    history.append(file, {"steps": 192, "reward": 0.25})
    assert [(row["steps"], row["reward"]) for row in history.read(file)] == [
        ("64", "0.5"),
        ("128", "0.5"),
        ("192", "0.25"),
    ]


def test_columns_that_come_later_stand_beside_the_others(tmp_path):
    file = tmp_path / "history.csv"
    history.append(file, {"steps": 64})
    history.append(file, {"steps": 128, "spl": 0.5})
    history.append(file, {"spl": 0.75, "steps": 192})
    assert history.read(file) == [
        {"steps": "64", "spl": ""},
        {"steps": "128", "spl": "0.5"},
        {"steps": "192", "spl": "0.75"},
    ]
