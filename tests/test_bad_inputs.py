"""Every bad input gets its message: with the file, the row where there is one, and the cure.

    python tests/test_bad_inputs.py      prints the list
"""
from collections import Counter

import pytest
from fixtures_bad_inputs import bad_inputs, message

from slotpapers.data.readers import LAYOUTS

BAD = bad_inputs()


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: f"{bad.read_by}-{bad.name}".replace(" ", "-"))
def test_the_message_names_file_row_and_cure(bad, request):
    if bad.read_by == "encode":
        request.getfixturevalue("plain_calls")      # our own message, before the shape hook's
    said = message(bad)
    for text in bad.said:
        assert text in said, said


def test_the_list_is_long_and_covers_every_reader():
    of = Counter(bad.read_by for bad in BAD)
    assert set(of) == {*LAYOUTS, "embed", "encode"} and len(BAD) >= 90 and min(of.values()) >= 4
    assert len({(bad.read_by, bad.name) for bad in BAD}) == len(BAD)


if __name__ == "__main__":
    for bad in BAD:
        print(f"{bad.read_by:12s} {bad.name:32s} {message(bad)}")
