from stages import progress


def test_lines_tell_how_far_and_how_long(capsys, monkeypatch):
    clock = iter(float(7 * i) for i in range(100))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    assert list(progress.track(iter("abcd"), "read", total=4)) == list("abcd")
    # Seven seconds per item: a line every ten seconds, which is every second item.
    assert capsys.readouterr().out == "read: 1 of 4, 42 s left\nread: 3 of 4, 9 s left\n"
