import pytest
import torch

from models.errors import InputError
from stages.data.feed import choice
from stages.data.feed.base import FeedPlan
from stages.data.feed.choice import build_feed
from stages.data.feed.memory import MemoryFeed
from stages.data.feed.stream import StreamFeed
from stages.sections.data import Augmentation

CPU = torch.device("cpu")
PADDED = 50 * 12 * 12 * 3


@pytest.mark.parametrize(
    ("free", "kind"), [(4 * PADDED, MemoryFeed), (4 * PADDED - 1, StreamFeed)], ids=["fits", "not"]
)
def test_auto_keeps_images_that_fit_a_quarter_of_the_memory(data, monkeypatch, capsys, free, kind):
    monkeypatch.setattr(choice, "free_memory", lambda: free)
    assert type(build_feed(FeedPlan(data, Augmentation(), 16, CPU))) is kind
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert ("kept in memory" in lines[0]) == (kind is MemoryFeed)


def test_processes_share_the_memory_of_their_host(data, monkeypatch, capsys):
    monkeypatch.setattr(choice, "free_memory", lambda: 8 * PADDED)
    assert type(build_feed(FeedPlan(data, Augmentation(), 16, CPU, 1, 4))) is StreamFeed
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # the other two are on another host
    feed = build_feed(FeedPlan(data, Augmentation(), 16, CPU, 1, 4))
    assert type(feed) is MemoryFeed
    assert (feed.plan.process, feed.plan.processes) == (1, 4)
    assert capsys.readouterr().out == ""


def test_a_requested_feed_is_used(data, monkeypatch):
    monkeypatch.setattr(choice, "free_memory", lambda: 0)
    assert type(build_feed(FeedPlan(data, Augmentation(), 16, CPU), mode="memory")) is MemoryFeed
    monkeypatch.setattr(choice, "free_memory", lambda: 1 << 40)
    assert type(build_feed(FeedPlan(data, Augmentation(), 16, CPU), mode="stream")) is StreamFeed


@pytest.mark.parametrize(
    ("cores", "processes", "text", "workers"),
    [(64, 1, None, 8), (4, 2, None, 2), (2, 4, "", 1), (64, 1, "0", 0), (2, 1, "12", 12)],
)
def test_the_number_of_workers(data, monkeypatch, cores, processes, text, workers):
    monkeypatch.setattr(choice, "cores", lambda: cores)
    if text is not None:
        monkeypatch.setenv("ACKD_WORKERS", text)
    feed = build_feed(FeedPlan(data, Augmentation(), 16, CPU, 0, processes), mode="stream")
    assert feed.workers == workers


@pytest.mark.parametrize("text", ["many", "-1"])
def test_an_invalid_number_of_workers_is_refused(data, monkeypatch, text):
    monkeypatch.setenv("ACKD_WORKERS", text)
    with pytest.raises(InputError, match=f"ACKD_WORKERS is '{text}', expected a number"):
        build_feed(FeedPlan(data, Augmentation(), 16, CPU))
