import pytest

from models.errors import InputError, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Grün, 猫, می\u200cخواهم, 1−2", "Grün, 猫, می\u200cخواهم, 1−2"),
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\r\n\tb\x00\x7f\x9b", r"a\r\n\tb\x00\x7f\x9b"),
        ("a\u2028b", r"a\u2028b"),
        ("a\u202eb\u2066", r"a\u202eb\u2066"),
        ("caf\udce9\ud800", r"caf\xe9\ud800"),
    ],
)
def test_control_characters_are_escaped(text, shown):
    assert printable(text) == printable(shown) == shown
    assert str(InputError(text)) == shown
