"""What benchmarks share (benchmarks/measuring.py): turns, ratios and memory."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from measuring import interleaved, machine, markdown_table, page, paired_ratios, resident_bytes


def test_ratios_are_taken_pair_by_pair():
    # Both sides are ten times as slow in the second pair: the machine was busy, the ratio is not.
    found = paired_ratios([200, 20, 240], [100, 10, 80])

    assert found.values == (2, 2, 3)
    assert str(found) == "2.00 [2.00, 3.00]"


@pytest.mark.parametrize(("ours", "theirs"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_is_no_pair_is_refused(ours, theirs):
    with pytest.raises(ValueError, match="equally many"):
        paired_ratios(ours, theirs)


def test_sides_take_turns_in_going_first_and_warm_up_is_dropped():
    calls = []
    sides = {name: lambda name=name: calls.append(name) or len(calls) for name in "ab"}

    found = interleaved(sides, 2, warm_up=1)

    assert "".join(calls) == "ba" + "ab" + "ba"
    assert found == {"a": [3, 6], "b": [4, 5]}


def test_memory_that_is_taken_shows():
    before = resident_bytes()
    taken = bytearray(b"x") * (64 << 20)

    assert resident_bytes() - before == pytest.approx(len(taken), rel=0.1)
    assert resident_bytes(peak=True) > before + 0.9 * len(taken)


def test_a_page_names_command_machine_and_table():
    table = markdown_table(["what", "ratio"], [["us / them", "2.00"]])
    text = page("Speed", [table], load="0.1, 0.1, 0.1")

    assert text.startswith("# Speed\n\n    ")
    assert "| us / them | 2.00    |" in text
    assert machine()["python"] in text
