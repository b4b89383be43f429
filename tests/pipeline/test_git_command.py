"""Run git commands in small repositories."""

import pytest

from models.errors import InputError
from pipeline.git_command import changed_files, git, without_password
from tests import once


@pytest.fixture
def repository(tmp_path):
    once.repository(tmp_path)
    (tmp_path / "kept.txt").write_text("1")
    (tmp_path / "gone.txt").write_text("1")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "-m", "First")
    return tmp_path


def test_changed_files_are_those_that_git_tracks(repository):
    (repository / "kept.txt").write_text("2")
    (repository / "gone.txt").unlink()
    (repository / "new.txt").write_text("1")
    assert changed_files(repository) == ["gone.txt", "kept.txt"]


def test_errors_of_git_are_one_sentence_with_a_remedy(repository, monkeypatch):
    with pytest.raises(InputError, match=r"^git fetch: this repository has no origin; run `git re"):
        git(repository, "fetch", "origin")
    git(repository, "config", "user.useConfigOnly", "true")
    git(repository, "config", "--unset", "user.email")
    with pytest.raises(InputError, match=r"^git commit: does not know who you are; run `git conf"):
        git(repository, "commit", "--allow-empty", "-m", "Second")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    remedy = f"run `git config --global --add safe.directory {repository}`"
    with pytest.raises(InputError, match=f"^git remote: this repository is another .*{remedy}"):
        git(repository, "remote")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"^git: not installed here; install it$"):
        git(repository, "remote")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("'https://me:word@host/x' not found", "'https://host/x' not found"),
        ("https://token@host/x", "https://host/x"),
        ("ssh://me:word@host:22/x", "ssh://me@host:22/x"),
        ("ssh://me@host:22/x", "ssh://me@host:22/x"),
        ("git@host:team/x.git", "git@host:team/x.git"),
    ],
)
def test_passwords_are_removed(text, plain):
    assert without_password(text) == plain
