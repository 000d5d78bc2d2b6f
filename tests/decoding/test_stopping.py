import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.decoding.stopping import Stopping

TOKENIZER = byte_tokenizer(["Ġa", "Ġb", "Ġc", "END", "ab"])
EOS = TOKENIZER.eos_token_id


def tokens_of(text: str) -> list[int]:
    """One token a byte."""
    return TOKENIZER(text).input_ids


def stopping(max_new_tokens: int = 100, *stops: str, eos: bool = True) -> Stopping:
    return Stopping(
        max_new_tokens=max_new_tokens,
        eos_token_ids=frozenset({EOS} if eos else ()),
        stop_strings=stops,
        decode=TOKENIZER.decode,
    )


def run(rule: Stopping, tokens: list[int], blocks: list[int]):
    """Feed tokens in blocks of these sizes (over and over), as the engine does."""
    kept: list[int] = []
    fed = step = 0
    while fed < len(tokens):
        block = tokens[fed : fed + blocks[step % len(blocks)]]
        fed, step = fed + len(block), step + 1
        number, reason = rule.cut(kept + block, len(block))
        assert 0 <= number <= len(block)
        kept += block[:number]
        if reason is not None:
            return kept, reason
        assert number == len(block), "tokens were dropped, but the request goes on"
    return kept, None


def test_the_tokens_of_these_tests_are_bytes():
    assert len(tokens_of("aé€")) == 1 + 2 + 3
    assert TOKENIZER.decode(tokens_of("aé€")) == "aé€"


def test_without_a_stop_everything_is_kept():
    assert stopping().cut(tokens_of("abc"), 3) == (3, None)


def test_eos_inside_a_block_ends_the_text_behind_it():
    block = [*tokens_of("ab"), EOS, *tokens_of("cd")]
    assert stopping().cut(block, 5) == (3, "eos")
    assert stopping().cut(tokens_of("xyz") + block, 5) == (3, "eos")


def test_the_first_of_two_eos_tokens_counts():
    rule = Stopping(max_new_tokens=9, eos_token_ids=frozenset({7, 8}))
    assert rule.cut([1, 8, 7, 2], 4) == (2, "eos")


def test_an_old_eos_token_is_not_looked_at_again():
    assert Stopping(max_new_tokens=9, eos_token_ids=frozenset({7})).cut([7, 1, 2], 2) == (2, None)


def test_the_length_limit_cuts_a_block():
    assert stopping(5).cut(tokens_of("abcdefg"), 4) == (2, "length")


def test_the_length_is_reached_exactly():
    assert stopping(3).cut(tokens_of("abc"), 3) == (3, "length")
    assert stopping(4).cut(tokens_of("abc"), 3) == (3, None)


def test_a_stop_string_inside_a_block():
    assert stopping(100, "\n\n").cut(tokens_of("ab\n\ncd"), 6) == (4, "stop")


def test_a_stop_string_that_spans_two_steps():
    assert stopping(100, "\n\n").cut(tokens_of("abc\n"), 4) == (4, None)
    assert stopping(100, "\n\n").cut(tokens_of("abc\n\nde"), 3) == (1, "stop")


def test_a_stop_string_that_spans_many_steps():
    text = "xx<|im_end|>yy"
    assert run(stopping(100, "<|im_end|>"), tokens_of(text), [1])[0] == tokens_of("xx<|im_end|>")


def test_a_stop_string_that_begins_and_ends_inside_tokens():
    # " a" and "END" are single tokens; "aE" is half of each.
    tokens = TOKENIZER.convert_tokens_to_ids(["x", "Ġa", "END", "y"])
    assert stopping(100, "aE").cut(tokens, 4) == (3, "stop")


def test_a_stop_string_before_eos_wins_and_behind_it_is_never_reached():
    stop, text = "##", tokens_of("a##")
    assert stopping(100, stop).cut([*text, EOS, 1], 5) == (3, "stop")
    assert stopping(100, stop).cut([EOS, *text], 4) == (1, "eos")


def test_a_stop_string_that_the_eos_token_completes_ends_the_text_once():
    rule = stopping(100, TOKENIZER.eos_token)
    assert rule.cut([*tokens_of("a"), EOS, *tokens_of("b")], 3) == (2, "eos")


def test_the_earliest_of_several_stop_strings_ends_the_text():
    rule = stopping(100, "zz", "cd", "bcde")
    assert rule.cut(tokens_of("abcdezz"), 7) == (4, "stop")


def test_a_stop_before_the_limit_in_the_same_block_is_the_reason():
    assert stopping(5, "bc").cut(tokens_of("abcdefg"), 7) == (3, "stop")
    assert stopping(5).cut([*tokens_of("ab"), EOS, *tokens_of("cdef")], 7) == (3, "eos")


def test_a_stop_at_the_limit_is_a_stop_and_behind_it_is_not():
    assert stopping(3, "bc").cut(tokens_of("abcd"), 4) == (3, "stop")
    assert stopping(2, "bc").cut(tokens_of("abcd"), 4) == (2, "length")
    assert stopping(2).cut([*tokens_of("a"), EOS, *tokens_of("b")], 3) == (2, "eos")


@pytest.mark.parametrize("stop", ["é", "。", "終わり", "😀", "e\u0301"])
@pytest.mark.parametrize("blocks", [[1], [2], [3], [5], [1, 4], [100]])
def test_a_stop_of_multibyte_characters_that_are_split_over_tokens(stop, blocks):
    before, behind = tokens_of("日本é語"), tokens_of("語€")
    if stop == "é":
        before = tokens_of("日本語")
    kept, reason = run(stopping(100, stop), before + tokens_of(stop) + behind, blocks)
    assert (kept, reason) == (before + tokens_of(stop), "stop")


def test_half_a_character_is_no_stop():
    # "é" and "è" share their first byte.
    assert stopping(100, "é").cut(tokens_of("aè"), 3) == (3, None)


def test_without_a_decoder_stop_strings_are_not_looked_for():
    rule = Stopping(max_new_tokens=9, stop_strings=("a",))
    assert rule.cut(tokens_of("aaa"), 3) == (3, None)


def test_texts_longer_than_the_window_are_read_at_their_end_only():
    read: list[int] = []

    def decode(tokens: list[int]) -> str:
        read.append(len(tokens))
        return TOKENIZER.decode(tokens)

    rule = Stopping(max_new_tokens=10_000, stop_strings=("\n\n",), decode=decode)
    assert rule.cut(tokens_of("x" * 5_000 + "\n\nabc"), 4) == (1, "stop")
    assert max(read) < 20


# Few different characters, so that stops are met often and partly.
PIECES = st.lists(
    st.one_of(
        st.sampled_from(["a", "b", "\n", "é", "è", "終", "😀"]).map(tokens_of),
        st.sampled_from(["Ġa", "END", "ab"]).map(lambda t: [TOKENIZER.convert_tokens_to_ids(t)]),
        st.integers(1, 256).map(lambda byte: [byte]),  # also bytes that are no text
        st.just([EOS]),
    ),
    max_size=30,
)
STOPS = st.lists(
    st.sampled_from(["\n\n", "ab", "aE", "é", "é終", "😀a", "bab", "NDa", "a a", "終"]), max_size=3
)


@settings(deadline=None)
@given(PIECES, STOPS, st.integers(1, 60), st.lists(st.integers(1, 9), min_size=1, max_size=5))
def test_the_kept_tokens_do_not_depend_on_the_sizes_of_the_blocks(pieces, stops, limit, blocks):
    tokens = [token for piece in pieces for token in piece]
    rule = stopping(limit, *stops)
    assert run(rule, tokens, blocks) == run(rule, tokens, [1])


@settings(deadline=None)
@given(PIECES, STOPS, st.integers(1, 60))
def test_one_by_one_a_text_ends_where_reading_it_as_a_whole_finds_the_first_end(
    pieces, stops, limit
):
    tokens = [token for piece in pieces for token in piece]

    def ends(number: int) -> bool:
        text = TOKENIZER.decode(tokens[:number])
        return tokens[number - 1] == EOS or any(stop in text for stop in stops) or number == limit

    first = next((number for number in range(1, len(tokens) + 1) if ends(number)), None)
    kept, reason = run(stopping(limit, *stops), tokens, [1])
    assert len(kept) == (len(tokens) if first is None else first)
    assert (reason is None) == (first is None)
