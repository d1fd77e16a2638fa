"""What made a result is told, and nothing else."""

import shutil
import subprocess

import pytest

from defm_rl.experiments import provenance as module


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository with one commit, in which this library's file lies without being tracked."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where a commit hook runs the tests
        monkeypatch.delenv(variable, raising=False)
    installed = tmp_path / "venv" / "provenance.py"
    installed.parent.mkdir()
    installed.write_text("")
    (tmp_path / "users_own.py").write_text("")
    git(tmp_path, "init", "--quiet")
    commit(tmp_path, "users_own.py")
    monkeypatch.setattr(module, "__file__", str(installed))
    return tmp_path


def git(folder, *arguments):
    return subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def commit(folder, *files):
    git(folder, "add", "--", *files)
    git(folder, "-c", "user.name=a", "-c", "user.email=a@b", "commit", "--quiet", "--no-verify", "-m", "x")


def test_the_commit_of_a_users_own_repository_is_not_taken_for_the_librarys(repository):
    assert module.provenance()["git_commit"] is None


def test_the_commit_of_a_checkout_is_told_and_whether_it_was_changed(repository):
    commit(repository, "venv/provenance.py")
    head = git(repository, "rev-parse", "HEAD")
    assert module.provenance()["git_commit"] == head
    (repository / "users_own.py").write_text("1")
    assert module.provenance()["git_commit"] == f"{head}+changes"
