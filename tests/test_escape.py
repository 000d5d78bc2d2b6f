"""Each escape, with any text: it does nothing in a terminal, table, XML file or Markdown page."""

import csv
import io
import unicodedata
import xml.etree.ElementTree

from hypothesis import given
from hypothesis import strategies as st

from lm_eval_specfair import escape

ANY = st.text(st.characters(exclude_categories=()), max_size=40)
SPECIAL = st.text("=+-@\t\r\n\x1b\x07\x9b|<>[]()`*_!&#~\\\"',;:/ \u202e\u2028\x00a1", max_size=12)
TEXTS = ANY | SPECIAL


@given(TEXTS)
def test_a_terminal_is_told_nothing(text):
    shown = escape.one_line(text)
    assert not any(unicodedata.category(each) in {"Cc", "Zl", "Zp"} for each in shown)
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@given(TEXTS)
def test_a_spreadsheet_finds_no_formula(text):
    cell = escape.csv_cell(text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
    file = io.StringIO()
    csv.writer(file).writerow([cell, "next"])
    (row,) = csv.reader(io.StringIO(file.getvalue()))
    assert row == [cell, "next"]


@given(TEXTS)
def test_xml_can_be_read_again(text):
    element = xml.etree.ElementTree.Element("case", name=escape.xml(text))
    written = xml.etree.ElementTree.tostring(element, encoding="unicode")
    read = xml.etree.ElementTree.fromstring(written.encode("utf-8"))
    assert read.get("name") is not None


@given(TEXTS)
def test_markdown_has_no_markup_and_no_new_cell(text):
    shown = escape.markdown(text)
    assert "\n" not in shown
    assert "<" not in shown
    assert "](" not in shown  # a link
    assert "][" not in shown
    for mark in "|`*_":
        # Each mark is escaped by an odd number of backslashes.
        for place, each in enumerate(shown):
            if each == mark:
                before = shown[:place]
                assert (len(before) - len(before.rstrip("\\"))) % 2 == 1, shown
