"""Lines end at a line feed only.

python -m pytest tests/test_text_lines.py
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_specfair.text_lines import file_lines, first_line, parse_json, split_lines

# Where str.splitlines ends a line and JSON Lines does not.
OTHER_ENDS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
lines = st.lists(st.text(st.characters(exclude_characters="\n\r", codec="utf-8"))).filter(
    lambda found: not found or (found[-1] and not found[0].startswith("\ufeff"))
)


@given(lines, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.booleans())
def test_lines_come_back_whatever_their_end_with_and_without_a_mark(
    tmp_path_factory, content, end, mark, last
):
    text = ("\ufeff" if mark else "") + end.join(content) + (end if last and content else "")
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(text.encode("utf-8"))

    assert split_lines(text) == content
    assert list(file_lines(path)) == content


@pytest.mark.parametrize("character", [*OTHER_ENDS, "\r"])
def test_no_other_character_ends_a_line(tmp_path, character):
    rows = [{"text": f"one{character}still one"}, {"text": "two"}]
    path = tmp_path / "rows.jsonl"
    written = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_bytes(written.encode("utf-8"))

    assert [json.loads(line) for line in file_lines(path)] == rows
    assert split_lines(f"a{character}b\nc") == [f"a{character}b", "c"]
    assert first_line(f" \n a{character}b \nc") == f"a{character}b"


def test_bytes_that_are_not_utf8_are_not_guessed(tmp_path):
    path = tmp_path / "latin.txt"
    path.write_bytes(b"good\n\xe9t\xe9\n")

    with pytest.raises(UnicodeDecodeError):
        list(file_lines(path))
    path.write_bytes("text".encode("utf-16"))
    with pytest.raises(UnicodeDecodeError):
        list(file_lines(path))


def test_half_a_surrogate_pair_is_no_text():
    assert parse_json(r'{"text": "\ud83d\ude42 é"}') == {"text": "🙂 é"}
    for line in (r'{"text": "\ud800 x"}', r'{"\udfff": 1}', r'["\ude42\ud83d"]'):
        with pytest.raises(ValueError, match="surrogates"):
            parse_json(line)
