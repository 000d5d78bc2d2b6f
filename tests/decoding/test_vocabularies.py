"""Drafters with a tokenizer of their own: lossless, and right in their drafts."""

import functools
import itertools
import random
import sys

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from lm_eval_specfair.config import DecodeConfig
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama, translated_pair
from lm_eval_specfair.decoding.vocabularies import foreign_drafters, own_context
from lm_eval_specfair.decoding.vocabularies.choice import foreign_vocabulary
from lm_eval_specfair.decoding.vocabularies.own_context import (
    OwnContext,
    Translation,
    opening,
    text_encoder,
)
from lm_eval_specfair.decoding.vocabularies.token_bytes import spelling
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import VocabularyMap, vocabulary_map
from lm_eval_specfair.errors import ConfigError

from support.decoding_runs import (
    TieJudge,
    accepted,
    decode,
    plain_scores,
    request,
    transformers_greedy,
)
from support.vocabularies import (
    ENGLISH,
    MIXED,
    byte_level_bpe,
    metaspace_bpe,
    real_drafter,
    toy_spelling,
    unigram,
    wordpiece,
)

MAKE = {
    "bytes of English": lambda: byte_level_bpe(ENGLISH, 380, markers=["<|user|>"]),
    "bytes of five scripts": lambda: byte_level_bpe(MIXED, 450, "<|stop|>", ["<|user|>"]),
    "metaspace": lambda: metaspace_bpe(MIXED, 430),
    "unigram": lambda: unigram(MIXED, 150),
}
PAIRS = list(itertools.permutations(MAKE, 2))
TEXTS = [
    "The old miller walked down",
    "Der Müller sah: 12, 3 Räder.\n\nUnd",
    "Старый мельник и 老磨坊主",
    "x",
]


@functools.cache
def tokenizer(name: str):
    return MAKE[name]()


@functools.cache
def model(name: str, seed: int):
    return llama(seed, layers=1, vocab_size=len(tokenizer(name)) + 3)  # padded, as they come


@functools.cache
def drafter(target: str, own: str, method: str):
    sizes = tokenizer(target), tokenizer(own), len(tokenizer(target)) + 3
    return real_drafter(model(own, 8), *sizes, method)


def encoded(name: str, text: str) -> list[int]:
    return tokenizer(name).encode(text, add_special_tokens=False)


# What tokens spell


@pytest.mark.parametrize("name", MAKE)
def test_tokens_spell_the_texts_that_they_encode(name):
    spelled = spelling(tokenizer(name), name)
    for text in [*ENGLISH, *MIXED, *TEXTS]:
        pieces = [spelled.piece(token) for token in encoded(name, text)]
        if None not in pieces:  # the unigram lacks characters
            assert b"".join(pieces) == b" " * spelled.adds_space + text.encode()


def test_added_tokens_spell_their_text_and_special_ones_nothing():
    spelled = spelling(tokenizer("unigram"), "unigram")
    assert spelled.piece(tokenizer("unigram").convert_tokens_to_ids("<think>")) == b"<think>"
    assert [spelled.piece(token) for token in (0, 1, 2)] == [None] * 3
    assert spelled.roles == {"pad": 0, "eos": 1, "unk": 2}


def test_ids_beyond_the_last_token_spell_nothing():
    assert spelling(tokenizer("unigram"), "unigram").piece(10_000) is None


def test_a_tokenizer_that_drops_spaces_is_refused_with_the_reason_and_a_way_out():
    with pytest.raises(ConfigError, match=r"WordPiece drops spaces.*drafter=prompt_lookup"):
        foreign_vocabulary(
            tokenizer("metaspace"), wordpiece(ENGLISH, 200), "x", target_size=430, drafter_size=200
        )


# Which tokens are shared


@pytest.mark.parametrize(("target", "own"), PAIRS)
def test_shared_tokens_spell_the_same_and_special_ones_do_the_same(target, own):
    theirs, ours = spelling(tokenizer(target), target), spelling(tokenizer(own), own)
    shared = vocabulary_map(
        theirs, ours, target_size=len(theirs.pieces), drafter_size=len(ours.pieces)
    )
    pairs = dict(zip(shared.target_ids.tolist(), shared.drafter_ids.tolist(), strict=True))
    assert len(set(pairs.values())) == len(pairs) > 20
    for token, other in pairs.items():
        if theirs.piece(token) is not None:
            assert theirs.piece(token) == ours.piece(other)
    assert pairs.pop(theirs.roles["eos"]) == ours.roles["eos"]
    special = {theirs.markers[text]: ours.markers[text] for text in theirs.markers if ours.markers}
    assert {token: other for token, other in pairs.items() if theirs.piece(token) is None} == (
        special
    )
    # Nothing that both spell is missed.
    assert {theirs.piece(t) for t in pairs} - {None} == (
        theirs.by_bytes(10_000).keys() & ours.by_bytes(10_000).keys()
    )


def test_a_letter_is_shared_by_its_own_token_rather_than_by_the_token_of_its_byte():
    spelled = spelling(tokenizer("metaspace"), "metaspace")
    found = spelled.by_bytes(10_000)
    assert found[b"e"] not in spelled.fallbacks
    assert found[b"\xff"] in spelled.fallbacks


def test_scores_of_shared_tokens_are_carried_over_and_a_softmax_renormalises_them():
    shared = vocabulary_map(
        toy_spelling([b"<", b"a", b"b", b"ab"], eos=0),
        toy_spelling([b"b", b"a", b">", b"ba"], eos=2),
        target_size=4,
        drafter_size=4,
    )
    scores = torch.tensor([[1.0, 2.0, 3.0, 9.0]])
    carried = shared.to_target(scores)
    assert carried.tolist() == [[3.0, 2.0, 1.0, -torch.inf]]
    assert carried.softmax(-1).sum().item() == pytest.approx(1)
    assert shared.to_drafter(torch.tensor([0, 1, 2])).tolist() == [2, 1, 0]


def test_ids_without_a_score_are_not_shared():
    target, own = toy_spelling([b"a", b"b", b"c"]), toy_spelling([b"c", b"b", b"a"])
    shared = vocabulary_map(target, own, target_size=2, drafter_size=2)
    assert shared.covered == {1}


@pytest.mark.parametrize(
    ("target", "own", "expected"),
    [
        ("bytes of English", "bytes of five scripts", "intersection"),
        ("bytes of five scripts", "bytes of English", "intersection"),
        ("bytes of five scripts", "unigram", "text"),
    ],
)
def test_the_way_is_chosen_by_the_share_of_tokens_and_can_be_named(target, own, expected):
    given = tokenizer(target), tokenizer(own), "x"
    sizes = {"target_size": len(given[0]), "drafter_size": len(given[1])}
    chosen = foreign_vocabulary(*given, **sizes)
    assert chosen.method == expected
    assert chosen.settings()["method"] == expected
    assert 0 < chosen.settings()["share_of_target_tokens"] < 1
    for method in ("intersection", "text"):
        assert foreign_vocabulary(*given, **sizes, method=method).method == method


# Lossless


def requests_of(target: str, length: int):
    prompts = [encoded(target, text) for text in TEXTS]
    return [request(prompt, length, str(place)) for place, prompt in enumerate(prompts)]


@pytest.mark.parametrize("method", ["intersection", "text"])
@pytest.mark.parametrize(("target", "own"), PAIRS)
def test_greedy_texts_are_the_targets_own(target, own, method):
    judge = TieJudge(model(target, 7))
    eos = tokenizer(target).eos_token_id
    requests = requests_of(target, 24)
    expected = [transformers_greedy(model(target, 7), each.prompt, 24, eos) for each in requests]
    for length, batch_size in ((1, 2), (4, 3)):  # fewer rows than requests: places are refilled
        done = decode(
            model(target, 7),
            drafter(target, own, method),
            [request(each.prompt, 24, each.request_id, eos_token_ids={eos}) for each in requests],
            batch_size=batch_size,
            num_speculative_tokens=length,
        )
        for each, text in zip(done, expected, strict=True):
            judge.check(each.request.prompt, text, each.token_ids)
        assert sum(sum(each.counters.drafted_per_step) for each in done) > 0


@pytest.mark.parametrize("method", ["intersection", "text"])
def test_a_sampled_text_does_not_depend_on_the_batch(method):
    target, own = "bytes of five scripts", "metaspace"
    texts = [
        [
            each.token_ids
            for each in decode(
                model(target, 7),
                drafter(target, own, method),
                requests_of(target, 16),
                batch_size=batch_size,
                temperature=0.8,
            )
        ]
        for batch_size in (1, 3)
    ]
    assert texts[0] == texts[1]


# Right drafts


@pytest.mark.parametrize("method", ["intersection", "text"])
def test_all_that_the_target_drafts_in_other_ids_is_accepted(method):
    target, own, other = translated_pair()
    prompts = [byte_tokenizer().encode(text) for text in ("Hello, ", "x = [1", "What is")]
    done = decode(
        target,
        real_drafter(own, byte_tokenizer(), other, target.vocab_size, method),
        [request(prompt, 21) for prompt in prompts],
        num_speculative_tokens=4,
        batch_size=2,
    )
    assert accepted(done) == sum(sum(each.counters.drafted_per_step) for each in done) > 40


def test_a_map_that_is_off_by_one_has_hardly_a_draft_accepted(monkeypatch):
    right = VocabularyMap.to_target
    monkeypatch.setattr(
        VocabularyMap, "to_target", lambda self, scores: right(self, scores).roll(1, -1)
    )
    with pytest.raises(AssertionError):
        test_all_that_the_target_drafts_in_other_ids_is_accepted("intersection")


def expected_drafts(target: str, own: str, history: list[int], number: int) -> list[int]:
    """The drafter's most likely shared tokens after its own tokens of the text, one by one."""
    theirs, ours = spelling(tokenizer(target), target), spelling(tokenizer(own), own)
    pieces = theirs.by_bytes(len(theirs.pieces)), ours.by_bytes(len(ours.pieces))
    table = {pieces[1][piece]: pieces[0][piece] for piece in pieces[0].keys() & pieces[1].keys()}
    table |= {ours.roles["eos"]: theirs.roles["eos"]}
    table |= {ours.markers[text]: theirs.markers[text] for text in theirs.markers if ours.markers}
    read, drafted = encoded(own, text_of(target, history) or ""), []
    for _ in range(number):
        scores = plain_scores(model(own, 8), read)[-1]
        best = max(table, key=lambda token: scores[token].item())
        read, drafted = [*read, best], [*drafted, table[best]]
    return drafted


HISTORIES = [TEXTS[0], "The old miller walked down to the river and looked at the wh", TEXTS[1]]


@pytest.mark.parametrize(("target", "own"), PAIRS)
def test_it_drafts_after_its_own_tokens_of_the_text_whatever_was_kept_before(target, own):
    drafting = drafter(target, own, "intersection")
    histories = [encoded(target, text) for text in HISTORIES]
    if target == "unigram":  # which cannot spell what it lacks
        histories = [[t for t in tokens if t > 2] for tokens in histories]
    chance = random.Random(0)
    drafting.reset()
    starts = [len(tokens) // 2 for tokens in histories]
    drafting.admit([0, 1, 2], [h[:n] for h, n in zip(histories, starts, strict=True)])
    checked = 0
    while any(n < len(h) for h, n in zip(histories, starts, strict=True)):
        kept = [h[:n] for h, n in zip(histories, starts, strict=True)]
        draft = drafting.propose(kept, [3, 3, 3], DecodeConfig(), None)
        for row, history in enumerate(kept):
            if text_of(target, history) is not None:
                expected = expected_drafts(target, own, history, 3)
                assert draft.tokens[row].tolist() == expected
                checked += 1
        drafting.rolled_back([0, 0, 0])
        starts = [
            min(len(h), n + chance.randint(1, 3)) for h, n in zip(histories, starts, strict=True)
        ]
    assert checked > 8


def text_of(target: str, history: list[int]) -> str | None:
    """The text of some tokens, without the space that an encoder adds; None of cut characters."""
    theirs = spelling(tokenizer(target), target)
    data = b"".join(theirs.piece(token) or b"" for token in history)
    try:
        return (data[1:] if theirs.adds_space else data).decode()
    except UnicodeDecodeError:
        return None


@pytest.mark.parametrize("kind", ["recurrent", "windows"])
def test_so_it_does_with_recurrent_states_and_with_windows(kind, monkeypatch):
    own = "bytes of five scripts"
    size = len(tokenizer(own)) + 3
    torch.manual_seed(0)
    if kind == "recurrent":
        config = MambaConfig(
            vocab_size=size, hidden_size=32, state_size=8, num_hidden_layers=2, expand=2
        )
        made = MambaForCausalLM(config).eval()
    else:
        config = MistralConfig(
            vocab_size=size, hidden_size=32, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=2, sliding_window=6,
        )  # fmt: skip
        made = MistralForCausalLM(config).eval()
    monkeypatch.setattr(sys.modules[__name__], "model", lambda name, seed: made)
    drafter.cache_clear()
    test_it_drafts_after_its_own_tokens_of_the_text_whatever_was_kept_before(
        "bytes of English", own
    )
    drafter.cache_clear()


def test_a_cache_that_is_not_rolled_back_shows_in_the_drafts(monkeypatch):
    # The mutant: what was read is taken to be the beginning of the text, whatever it is.
    monkeypatch.setattr(
        foreign_drafters, "_num_equal", lambda one, other: min(len(one), len(other))
    )
    with pytest.raises(AssertionError):
        test_it_drafts_after_its_own_tokens_of_the_text_whatever_was_kept_before(
            "bytes of English", "bytes of five scripts"
        )


def test_drafts_through_text_are_split_as_the_target_would_split_them():
    target, own = "bytes of English", "unigram"
    drafting = drafter(target, own, "text")
    ours, said = spelling(tokenizer(own), own), encoded(own, "mill and the wheel")
    histories = [encoded(target, text) for text in ("walked to the", "walked to the mi")]

    assert b"".join(ours.piece(token) for token in said) == b" mill and the wheel"
    drafted = drafting._in_target_tokens(histories[0], said)
    assert histories[0] + drafted == encoded(target, "walked to the mill and the wheel")
    # Within a word: what was kept stays, and the rest of the word follows.
    rest = tokenizer(own).convert_tokens_to_ids(["l", "l"])
    text = tokenizer(target).decode(histories[1] + drafting._in_target_tokens(histories[1], rest))
    assert text == "walked to the mill"
    # The end of the text is the target's.
    ended = drafting._in_target_tokens(histories[0], [*said[:2], ours.roles["eos"], *said])
    assert ended[-1] == tokenizer(target).eos_token_id


# The text in the drafter's tokens

LONG = " ".join(f"{line} ({number})" for number, line in enumerate(ENGLISH * 12)) + " Über 老 🙂"


def context(target: str, own: str) -> OwnContext:
    names = tokenizer(target), tokenizer(own)
    return OwnContext(
        Translation(
            spelling(names[0], target),
            spelling(names[1], own),
            text_encoder(names[1]),
            opening(names[1]),
        )
    )


@pytest.mark.parametrize("own", ["bytes of English", "bytes of five scripts", "metaspace"])
def test_a_long_text_has_the_drafters_own_tokens(own):
    # No space is added to the text here: the target adds none, and the drafter's is its own.
    target = "bytes of English" if own != "bytes of English" else "bytes of five scripts"
    history = encoded(target, LONG)
    assert len(LONG.encode()) > 3 * own_context.LONGEST_OPEN
    assert context(target, own).extended(history) == encoded(own, LONG)


@pytest.mark.parametrize("own", ["bytes of five scripts", "metaspace", "unigram"])
def test_tokens_depend_on_the_text_alone_not_on_how_it_grew(own):
    chance, target = random.Random(3), "bytes of English"
    history = encoded(target, LONG)
    grown, place = context(target, own), 0
    while place < len(history):
        place = min(len(history), place + chance.choice([1, 2, 5, 300]))
        tokens = grown.extended(history[:place])
    assert tokens == context(target, own).extended(history)


def test_a_cut_character_is_read_as_bytes_until_it_is_whole():
    target, own = "bytes of English", "metaspace"
    history, one = encoded(target, "a 🙂"), context(target, own)
    spelled = spelling(tokenizer(own), own)
    for end in range(2, len(history)):
        tokens = one.extended(history[:end])
        assert b"".join(spelled.piece(t) for t in tokens) == b" a " + "🙂".encode()[: end - 2]


def test_special_tokens_are_translated_by_role_or_text_and_a_bos_is_the_drafters_own():
    target, own = "bytes of English", "bytes of five scripts"
    names = tokenizer(target)
    history = [
        names.eos_token_id,
        names.convert_tokens_to_ids("<|user|>"),
        *encoded(target, "The mill"),
    ]
    expected = [
        tokenizer(own).eos_token_id,
        tokenizer(own).convert_tokens_to_ids("<|user|>"),
        *encoded(own, "The mill"),
    ]
    assert context(target, own).extended(history) == expected
    # A marker that the drafter lacks is text to it; a BOS of the target's is left out.
    as_text = context(target, "metaspace").extended(history[1:])
    assert as_text == encoded("metaspace", "<|user|>The mill")
    bos = tokenizer("metaspace").bos_token_id
    assert context("metaspace", own).extended([bos]) == [tokenizer(own).eos_token_id]


def test_a_row_beyond_the_drafters_context_drafts_nothing_and_the_others_go_on():
    target, own = "bytes of English", "metaspace"
    short = llama(8, layers=1, vocab_size=len(tokenizer(own)) + 3, max_position_embeddings=16)
    sizes = tokenizer(target), tokenizer(own), len(tokenizer(target)) + 3
    prompts = [encoded(target, text) for text in ("The mill", ENGLISH[0])]
    for method in ("intersection", "text"):
        drafting = real_drafter(short, *sizes, method)
        drafting.admit([0, 1], prompts)
        for _ in range(3):
            draft = drafting.propose(prompts, [3, 3], DecodeConfig(), None)
            assert draft.num_drafted[0] >= 1
            assert draft.num_drafted[1] == 0
            drafting.rolled_back([0, 0])
