"""Files are whole or absent, and prove their bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from stages.checkpoints.durable import (
    DamagedFileError,
    durable_file,
    open_sealed,
    remove_abandoned,
    seal,
)


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b"
    with durable_file(path) as handle:
        handle.write(b"x")
        assert not path.exists()
    assert path.read_bytes() == b"x"
    assert list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "b"
    path.write_bytes(b"old")

    def fail() -> None:
        with durable_file(path) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_partials_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = tmp_path / ".b.0123.partial"
    dead.write_bytes(b"half")
    with durable_file(tmp_path / "b") as handle:
        remove_abandoned(tmp_path)
        assert not dead.exists()
        assert len(list(tmp_path.glob(".b.*.partial"))) == 1
        handle.write(b"whole")
    assert (tmp_path / "b").read_bytes() == b"whole"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_partial_that_is_taken_for_an_abandoned_one_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if another's clean-up came between the opening and the lock, once.
    import fcntl

    real = fcntl.flock
    removed: list[Path] = []

    def flock(handle: object, how: int) -> None:
        if not removed:
            removed.extend(tmp_path.glob(".b.*.partial"))
            removed[0].unlink()
        real(handle, how)  # type: ignore[arg-type]

    monkeypatch.setattr(fcntl, "flock", flock)
    with durable_file(tmp_path / "b") as handle:
        handle.write(b"whole")
    assert len(removed) == 1
    assert (tmp_path / "b").read_bytes() == b"whole"


def test_a_seal_is_for_one_content_of_one_file(tmp_path: Path) -> None:
    assert seal("me", b"content") == hashlib.sha256(b"me\0content").digest()
    path = tmp_path / "a"
    path.write_bytes(seal("me", b"content") + b"content")
    content = open_sealed(path, "me")
    assert bytes(content) == b"content"
    content[0] = 0  # a private copy
    assert bytes(open_sealed(path, "me")) == b"content"
    with pytest.raises(DamagedFileError):
        open_sealed(path, "you")
    whole = path.read_bytes()
    damages = [whole[:length] for length in range(len(whole))]
    damages += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(len(whole))]
    for damaged in [*damages, whole + b"x"]:
        path.write_bytes(damaged)
        with pytest.raises(DamagedFileError):
            open_sealed(path, "me")
    with pytest.raises(FileNotFoundError):
        open_sealed(tmp_path / "absent", "me")
