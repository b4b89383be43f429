import hashlib
import os

import pytest

from stages.checkpoints.durable import DamagedFileError, durable_file, open_sealed, seal


def test_a_file_appears_at_the_end_and_a_failure_leaves_the_old_one(tmp_path):
    path = tmp_path / "a" / "b"
    with durable_file(path) as handle:
        handle.write(b"x")
        assert not path.exists()

    def fail() -> None:
        with durable_file(path) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"x"
    assert list(path.parent.iterdir()) == [path]


def test_only_partial_files_of_dead_processes_are_removed(tmp_path):
    dead, living = tmp_path / ".b.1.partial", tmp_path / ".c.2.partial"
    for partial in (dead, living):
        partial.write_bytes(b"half")
    os.utime(dead, (0, 0))
    with durable_file(tmp_path / "b") as handle:
        handle.write(b"whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == [living.name, "b"]


def test_a_seal_is_for_one_content_of_one_file(tmp_path):
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
