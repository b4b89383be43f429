"""Stored logits equal computed ones, are verified by checksums, and stay within the limit."""

import contextlib
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import models
from models.errors import InputError
from stages.checkpoints.durable import IN_USE
from stages.training.logits_store import LogitsStore, made_by, round_logits
from tests.forked import forked

SAMPLES, CLASSES = 60, 10
SEAL = 32
FILE_BYTES = SEAL + SAMPLES * CLASSES * 2
KEY: dict[str, Any] = {
    "teacher_sha256": "ab" * 32,
    "data_sha256": "cd" * 32,
    "augmentation": {"crop_padding": 2, "horizontal_flip": True, "seed": 0},
    "precision": "fp32",
}
KEY_BYTES = len(json.dumps(KEY, indent=2)) + 1
GIGABYTE = 10**9


def made_logits(epoch: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(epoch)
    return round_logits(5 * torch.randn(SAMPLES, CLASSES, generator=generator))


def make_store(root: Path, max_bytes: int = GIGABYTE, **changes: Any) -> LogitsStore:
    return LogitsStore(KEY | changes, SAMPLES, CLASSES, root=root, max_bytes=max_bytes)


def bits(logits: Tensor | None) -> bytes:
    return logits.numpy().tobytes()


def path_of(store: LogitsStore, epoch: int = 0) -> Path:
    return store.folder / f"epoch-{epoch:05d}.logits"


def used(root: Path) -> int:
    return sum(path.stat().st_size for path in root.rglob("*") if path.is_file())


def files(root: Path) -> list[str]:
    files = (path for path in root.rglob("*") if path.is_file() and path.name != IN_USE)
    return sorted(path.name for path in files)


def test_logits_are_rounded_as_ieee_says_and_refused_where_float16_cannot_hold_them():
    logits = torch.linspace(-3, 3, 1001)
    expected = logits.numpy().astype(np.float16)
    assert round_logits(logits).numpy().tobytes() == expected.tobytes()
    assert round_logits(torch.tensor([65504.0, -65519.0])).tolist() == [65504.0, -65504.0]
    for bad in (65520.0, -1e9, float("nan"), float("inf")):
        with pytest.raises(InputError, match="expected at most 65504"):
            round_logits(torch.tensor([[1.0, bad]]))


def test_what_is_read_is_what_was_computed(tmp_path):
    torch.manual_seed(0)
    network = models.build("resnet8", CLASSES).eval()
    with torch.no_grad():
        live = round_logits(network(torch.randn(SAMPLES, 3, 16, 16)))
    assert make_store(tmp_path).read(3) is None
    make_store(tmp_path).write(3, live)

    store = make_store(tmp_path)
    stored = store.read(3)
    assert (stored.dtype, stored.shape) == (torch.float16, (SAMPLES, CLASSES))
    assert bits(stored) == bits(live)
    assert path_of(store, 3).read_bytes()[SEAL:] == live.numpy().tobytes()
    assert store.read(2) is None
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(path_of(store, 3)) in maps.read_text(), "memory-mapped"
    stored.zero_()  # private to this process
    assert bits(make_store(tmp_path).read(3)) == bits(live)


def test_the_folder_says_what_it_is_for(tmp_path):
    store = make_store(tmp_path)
    store.write(0, made_logits())
    canonical = json.dumps(KEY, sort_keys=True, separators=(",", ":"))
    assert store.folder == tmp_path / hashlib.sha256(canonical.encode()).hexdigest()
    assert json.loads((store.folder / "key.json").read_text()) == KEY
    turned = LogitsStore(dict(reversed(KEY.items())), SAMPLES, CLASSES, root=tmp_path, max_bytes=1)
    assert turned.folder == store.folder
    for changes in ({"precision": "bf16"}, {"augmentation": {"seed": 1}}):
        assert make_store(tmp_path, **changes).folder != store.folder


def test_other_code_or_another_library_makes_other_logits(tmp_path, monkeypatch):
    counts = ["stages/data/feed/recolor.py", "models/networks/zoo.py"]
    counts += ["stages/training/inference.py", "stages/training/loop.py"]
    for name in counts:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [made_by(tmp_path)]
    for name in counts:
        (tmp_path / name).write_text("changed")
        found.append(made_by(tmp_path))
    *first, last, uncounted = found
    assert uncounted == last
    assert all(one != other for one, other in itertools.pairwise([*first, last]))
    monkeypatch.setattr("importlib.metadata.version", lambda _: "another")
    assert made_by(tmp_path) != last


def test_damaged_and_foreign_logits_are_computed_again(tmp_path, capsys):
    store, live = make_store(tmp_path), made_logits()
    store.write(0, live)
    content = path_of(store).read_bytes()
    assert len(content) == FILE_BYTES
    path_of(store).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    other = make_store(tmp_path, teacher_sha256="ef" * 32)
    other.folder.mkdir()
    path_of(other).write_bytes(content)
    path_of(store, 1).write_bytes(content)
    # The same numbers in another shape.
    turned = LogitsStore(KEY, CLASSES, SAMPLES, root=tmp_path, max_bytes=GIGABYTE)
    for reader, epoch in ((store, 0), (other, 0), (store, 1), (turned, 0)):
        assert reader.read(epoch) is None
        said = capsys.readouterr().out
        path = path_of(reader, epoch)
        assert said == f"{path}: damaged, or from another teacher; computing it again\n"
    store.write(0, live)
    assert bits(store.read(0)) == bits(live)
    assert files(store.folder) == ["epoch-00000.logits", "epoch-00001.logits", "key.json"]
    assert capsys.readouterr().out == ""


def while_running(function: Callable[..., object], calls: list[tuple[Any, ...]]) -> Iterator[None]:
    """Make the calls in processes of their own; yield while they run, then print their output."""
    with contextlib.ExitStack() as stack:
        children = [stack.enter_context(forked(function, *call)) for call in calls]
        while any(child.is_running() for child in children):
            yield
        for child in children:
            print(child.finish(), end="")
            assert child.exitcode == 0


def write_again_and_again(root: Path, epochs: int, seconds: float) -> None:
    end, store = time.monotonic() + seconds, make_store(root)
    while time.monotonic() < end:
        for epoch in range(epochs):
            store.write(epoch, made_logits(epoch))


def test_two_writers_and_a_reader_at_once_do_no_harm(tmp_path, capfd):
    store, expected = make_store(tmp_path), [bits(made_logits(epoch)) for epoch in range(2)]
    read = [0, 0]
    for _ in while_running(write_again_and_again, [(tmp_path, 2, 0.5)] * 2):
        for epoch in range(2):
            stored = store.read(epoch)
            if stored is not None:
                assert bits(stored) == expected[epoch]
                read[epoch] += 1
            else:
                assert read[epoch] == 0, "what was there is gone"
    assert min(read) > 10
    assert files(tmp_path) == ["epoch-00000.logits", "epoch-00001.logits", "key.json"]
    assert capfd.readouterr().out == ""  # neither damage nor a failure was reported


def fill(root: Path, max_bytes: int, teacher: str) -> None:
    store = make_store(root, max_bytes, teacher_sha256=teacher)
    for epoch in range(40):
        store.write(epoch, made_logits(epoch))


def test_several_writers_keep_the_bound_together(tmp_path):
    bound = 2 * KEY_BYTES + 30 * FILE_BYTES
    teachers = ["1" * 64, "2" * 64]
    for _ in while_running(fill, [(tmp_path, bound, name) for name in teachers]):
        kept = [path for path in tmp_path.glob("*/*") if not path.name.endswith(".partial")]
        assert sum(path.stat().st_size for path in kept) <= bound
    assert used(tmp_path) <= bound
    stores = [make_store(tmp_path, bound, teacher_sha256=name) for name in teachers]
    kept_epochs = [e for store in stores for e in range(40) if store.read(e) is not None]
    assert len(kept_epochs) > 10


def test_the_bound_is_for_all_keys_together(tmp_path, capsys):
    bound = KEY_BYTES + 2 * FILE_BYTES
    store = make_store(tmp_path, bound)
    for epoch in range(5):
        store.write(epoch, made_logits(epoch))
    assert files(tmp_path) == ["epoch-00000.logits", "epoch-00001.logits", "key.json"]
    assert used(tmp_path) == bound
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"storing no more in {tmp_path}" in said
    assert "ACKD_LOGITS_MAX_GB" in said

    make_store(tmp_path, bound, precision="bf16").write(0, made_logits())
    assert used(tmp_path) == bound
    assert capsys.readouterr().out.count("\n") == 1

    # Replacing a damaged file needs no extra space.
    path_of(store).write_bytes(bytes(FILE_BYTES))
    make_store(tmp_path, bound).write(0, made_logits())
    assert bits(store.read(0)) == bits(made_logits())


def test_without_room_nothing_is_written_and_all_is_read(tmp_path):
    rich, store = make_store(tmp_path), make_store(tmp_path, 0)
    rich.write(0, made_logits())
    assert rich.describe(2) == f"teacher logits: 1 of 2 epochs stored in {rich.folder}"
    store.write(1, made_logits())
    assert "epoch-00001.logits" not in files(tmp_path)
    assert bits(store.read(0)) == bits(made_logits())
    assert store.describe(2).endswith("no more will be stored, because ACKD_LOGITS_MAX_GB is 0")
    path_of(store).write_bytes(b"short")  # truncated files do not count
    assert rich.describe(1).startswith("teacher logits: 0 of 1 epochs")


def test_a_place_that_is_no_folder_is_said_once(tmp_path, capsys):
    (tmp_path / "file").touch()
    store = make_store(tmp_path / "file" / "logits")
    assert store.describe(2).startswith("teacher logits: 0 of 2 epochs")
    for epoch in range(3):
        assert store.read(epoch) is None
        store.write(epoch, made_logits())
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf", "1 GB"])
def test_a_bound_that_is_no_number_is_refused(monkeypatch, text):
    monkeypatch.setenv("ACKD_LOGITS_MAX_GB", text)
    with pytest.raises(InputError, match=f"ACKD_LOGITS_MAX_GB is '{text}', expected a number"):
        LogitsStore(KEY, 1, 1)


def test_the_environment_says_where_and_how_much(monkeypatch, tmp_path):
    for name in ("ACKD_LOGITS", "ACKD_LOGITS_MAX_GB", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    store = LogitsStore(KEY, 1, 1)
    assert (store.root, store.max_bytes) == (tmp_path / ".cache/ackd/logits", 10**10)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "home", lambda: Path("~nobody-at-all").expanduser())
        with pytest.raises(InputError, match="set ACKD_LOGITS to a folder"):
            LogitsStore(KEY, 1, 1)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert LogitsStore(KEY, 1, 1).root == tmp_path / "cache/ackd/logits"
    monkeypatch.setenv("ACKD_LOGITS", str(tmp_path / "mine"))
    monkeypatch.setenv("ACKD_LOGITS_MAX_GB", "2.5")
    store = LogitsStore(KEY, 1, 1)
    assert (store.root, store.max_bytes) == (tmp_path / "mine", 2_500_000_000)
