import pytest
import torch

from stages import display as display_module
from stages.display import Display

ROW = {"epoch": 2.0, "loss/total": 1.5, "val_accuracy": 0.25, "images_per_second": 300.0}


class Clock:
    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(display_module, "time", clock)
    return clock


def test_a_log_has_a_line_an_epoch_and_a_line_a_minute_within_a_long_one(clock, capsys):
    losses = {"total": torch.tensor(2.0, requires_grad=True), "ce": torch.tensor(0.5)}
    with Display("kd", epochs=3, steps=10, images=1000, done=10) as display:
        for _ in range(10):
            clock.now += 40
            display.step(losses)
        display.epoch(ROW)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "kd: epoch 2/3, step 2 of 10  total 2.000 ce 0.500  2 img/s  720 s left"
    assert len(lines) == 6  # steps 2, 4, 6, 8, 10 and the epoch
    assert lines[-1] == "kd: epoch 2/3  total 1.500  val 25.00%  300 img/s  400 s left"


def test_short_epochs_have_no_line_within(clock, capsys):
    with Display("kd", epochs=1, steps=10, images=1000) as display:
        for _ in range(10):
            clock.now += 1
            display.step({"total": torch.tensor(2.0)})
    assert capsys.readouterr().out == ""


def test_other_processes_than_the_first_are_silent(clock, capsys):
    with Display(None, epochs=1, steps=1, images=10) as display:
        clock.now = 100
        display.step({"total": torch.tensor(2.0)})
        display.epoch(ROW)
    assert capsys.readouterr().out == ""


def test_a_terminal_shows_a_bar_with_the_figures(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # makes rich assume a terminal
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(display_module, "_TERMINAL_SECONDS", 0.0)
    with Display("kd", epochs=2, steps=1, images=10) as display:
        display.step({"total": torch.tensor(2.0)})
        display.epoch(ROW | {"epoch": 1.0})
        display.step({"total": torch.tensor(1.25)})
    shown = capsys.readouterr().out
    assert "kd 2/2" in shown
    assert "total 1.250" in shown
    assert "img/s" in shown
