"""From files to batches: what is read, that splits share no item, and what each row weighs."""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.training.data.batches import Batches, collate
from lm_eval_specfair.training.data.items import Item, from_rows, read_path
from lm_eval_specfair.training.data.responses import with_responses
from lm_eval_specfair.training.data.rows import Corpus, Row, build_corpus, rows_of, split_items
from lm_eval_specfair.training.data.text_sources import read_source

from support.training_runs import texts, write_lines

EOS = 0


def encode(text: str) -> list[int]:
    return [1 + byte for byte in text.encode()]


# ---------------------------------------------------------------- reading


def test_a_folder_has_a_group_a_file_and_an_item_a_paragraph(tmp_path):
    (tmp_path / "en.txt").write_text("one\n\ntwo\nmore of two\n\nthree\n")
    (tmp_path / "sw.txt").write_text("moja\nmbili\n")
    found = read_path(tmp_path)
    by_group = [(i.item, i.membership[0][0], i.response) for i in found]
    assert by_group == [
        ("#0", "en", "one"),
        ("#1", "en", "two\nmore of two"),
        ("#2", "en", "three"),
        ("#0", "sw", "moja"),  # no empty line: a line is a text
        ("#1", "sw", "mbili"),
    ]


def test_json_lines_name_groups_in_three_ways_and_items_in_one(tmp_path):
    path = write_lines(
        tmp_path / "data.jsonl",
        [
            {"text": "x", "group": "en", "item": 7},
            {"text": "y", "lang": ["sw", "en"]},
            {"prompt": "p", "response": "r", "group": {"sw": 3, "en": 1}},
            {"prompt": "q", "group": "en"},
            {"text": "z", "group": "en"},
        ],
    )
    found = read_path(path)
    assert [i.membership for i in found] == [
        (("en", 1.0),),
        (("en", 0.5), ("sw", 0.5)),
        (("en", 0.25), ("sw", 0.75)),
        (("en", 1.0),),
        (("en", 1.0),),
    ]
    assert [i.item for i in found] == ["7", "#0", "#0", "#1", "#2"]
    assert (found[2].prompt, found[2].response) == ("p", "r")
    assert (found[3].prompt, found[3].response) == ("q", None)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"group": "en"}, "either `text` or `prompt`"),
        ({"text": "a", "prompt": "b", "group": "en"}, "either `text` or `prompt`"),
        ({"text": " ", "group": "en"}, "`text` must be a text that is not empty"),
        ({"text": "a"}, r"`group` as a name.*got None"),
        ({"text": "a", "group": {"en": -1}}, "`group` as a name"),
        ({"text": "a", "group": []}, "`group` as a name"),
        ({"prompt": "a", "response": 3, "group": "en"}, "`response` must be"),
    ],
)
def test_a_broken_row_is_refused_with_its_place(row, message):
    with pytest.raises(ConfigError, match=message):
        from_rows([{"text": "good", "group": "en"}, row], "data.jsonl")
    with pytest.raises(ConfigError, match="row 2"):
        from_rows([{"text": "good", "group": "en"}, row], "data.jsonl")


CHARACTERS = st.characters(codec="utf-8") | st.sampled_from("\u2028\u2029\x85\f\v\x1c\r")
LINE = st.text(CHARACTERS, min_size=1).filter(lambda text: text.strip() and "\n" not in text)


@settings(deadline=None)
@given(st.lists(LINE, min_size=1, max_size=5), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_a_line_ends_at_a_line_feed_whatever_else_is_in_it(texts, end, has_mark):
    """U+2028, U+0085 or a form feed in a text cut neither JSON nor lines; a mark is skipped."""
    rows = [{"text": text, "group": "en"} for text in texts]
    mark = b"\xef\xbb\xbf" if has_mark else b""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "rows.jsonl"
        lines = [json.dumps(row, ensure_ascii=False) + end for row in rows]
        path.write_bytes(mark + "".join(lines).encode())
        assert [item.response for item in read_path(path)] == texts
        path.unlink()
        parts = [text.strip() for text in texts]
        (Path(name) / "en.txt").write_bytes(mark + "".join(text + end for text in parts).encode())
        found = {item.item: item.response for item in read_path(Path(name))}
    assert found == {f"#{number}": text for number, text in enumerate(parts)}


@pytest.mark.parametrize("key", ["response", "completion"])
def test_prompts_bring_responses_under_either_name(key):
    """TRL's data sets say `completion`."""
    (item,) = from_rows([{"prompt": "p", key: "r", "group": "en"}], "rows")
    assert (item.prompt, item.response) == ("p", "r")
    with pytest.raises(ConfigError, match="`response` must be a text"):
        from_rows([{"prompt": "p", key: [{"role": "user"}], "group": "en"}], "rows")


def test_what_is_no_data_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        read_source(str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match=r"no <group>.txt"):
        read_path(tmp_path)
    (tmp_path / "en.txt").write_text("text")
    (tmp_path / "sw.txt").write_text(" \n")
    with pytest.raises(ConfigError, match=r"group 'sw' has no text"):
        read_path(tmp_path)
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"text": "a", "group": "en"}\n{"text"\n')
    with pytest.raises(ConfigError, match="line 2: not JSON"):
        read_path(broken)
    (tmp_path / "en.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_path(tmp_path)


def test_a_data_set_is_read_through_datasets(tmp_path):
    write_lines(tmp_path / "train.jsonl", [{"text": "x", "group": "a", "item": 1}])
    (found,) = read_source(f"datasets:{tmp_path}")
    assert (found.item, found.response) == ("1", "x")
    with pytest.raises(ConfigError, match=r"datasets:.*ID:SPLIT"):
        read_source(f"datasets:{tmp_path / 'no'}")


# ---------------------------------------------------------------- splits


@settings(deadline=None, max_examples=60)
@given(
    members=st.lists(
        st.tuples(st.integers(0, 30), st.sampled_from("abc")), min_size=1, max_size=120
    ),
    seed=st.integers(0, 5),
    random=st.randoms(use_true_random=False),
)
def test_translations_of_an_item_lie_in_one_split_whatever_the_order(members, seed, random):
    items = [Item(item=f"{n}", membership=((g, 1.0),), response="x") for n, g in members]
    try:
        splits = split_items(items, share=0.1, seed=seed)
    except ConfigError:
        return  # one group, or a group with too few items: tested below
    of_item = {(item.item, split) for split, found in splits.items() for item in found}
    assert len(of_item) == len({item.item for item in items})
    assert sum(map(len, splits.values())) == len(items)
    for found in splits.values():
        assert {item.membership[0][0] for item in found} == {g for _, g in members}
    random.shuffle(items)
    again = split_items(items, share=0.1, seed=seed)
    assert of_item == {(item.item, split) for split, found in again.items() for item in found}


def test_splits_have_about_the_share_asked_for():
    items = [
        Item(item=f"{n}", membership=((g, 1.0),), response="x") for n in range(1000) for g in "ab"
    ]
    splits = split_items(items, share=0.1, seed=0)
    # 1000 items at 10%: a standard deviation of 9.5 items, two groups each.
    for split in ("probe", "test"):
        assert abs(len(splits[split]) / 2 - 100) < 40


def test_one_group_or_too_few_items_are_refused():
    one = [Item(item=f"{n}", membership=(("en", 1.0),), response="x") for n in range(9)]
    with pytest.raises(ConfigError, match="at least two groups, got only en"):
        split_items(one, share=0.1, seed=0)
    few = [Item(item=f"{n}", membership=(("sw", 1.0),), response="x") for n in range(2)]
    with pytest.raises(ConfigError, match=r"'sw' has 2 items, but needs 3"):
        split_items(one + few, share=0.1, seed=0)


# ---------------------------------------------------------------- rows


def corpus_of(items, length=16) -> Corpus:
    splits = {"train": items, "probe": items, "test": items}
    return build_corpus(splits, encode, eos=EOS, length=length)


def test_texts_of_a_group_are_joined_and_all_their_bytes_are_counted():
    items = [Item(item="0", membership=(("a", 1.0),), response="héllo wörld")] * 3
    rows = rows_of(items, ("a",), encode, eos=EOS, length=8)
    joined = [token for row in rows for token in row.tokens.tolist()]
    assert joined == [EOS, *encode("héllo wörld")] * 3
    assert {len(row.tokens) for row in rows[:-1]} == {8}
    # A row's first token is not predicted: 13 bytes a text, less the bytes at the rows' starts.
    at_starts = sum(joined[start] != EOS for start in range(0, len(joined), 8))
    assert sum(row.num_bytes for row in rows) == pytest.approx(3 * 13 - at_starts)


def test_only_responses_are_learnt_from():
    item = Item(item="0", membership=(("a", 1.0),), prompt="abc", response="de")
    (row,) = rows_of([item], ("a",), encode, eos=EOS, length=16)
    assert row.tokens.tolist() == [*encode("abcde"), EOS]
    assert (row.first, row.num_learnt, row.num_bytes) == (3, 3, pytest.approx(2.0))
    tokens, counted = collate([row], torch.device("cpu"))
    # Predictions of d, e and the end stand at the positions of c, d and e.
    assert counted[0].tolist() == [False, False, True, True, True]
    assert tokens.shape == (1, 6)


def test_a_response_that_was_cut_at_the_row_counts_its_share_of_bytes():
    item = Item(item="0", membership=(("a", 1.0),), prompt="abc", response="defgh")
    (row,) = rows_of([item], ("a",), encode, eos=EOS, length=6)
    assert row.num_learnt == 3
    assert row.num_bytes == pytest.approx(2.5)  # 3 of 6 tokens, the end included, of 5 bytes


def test_a_group_whose_prompts_fill_the_row_is_refused():
    long = Item(item="0", membership=(("b", 1.0),), prompt="x" * 50, response="y")
    plain = Item(item="0", membership=(("a", 1.0),), response="x" * 50)
    with pytest.raises(ConfigError, match=r"'b' has no text to learn from.*16 tokens"):
        corpus_of([plain, long])


def test_texts_with_other_memberships_are_not_joined():
    items = [
        Item(item="0", membership=(("a", 1.0),), response="aaa"),
        Item(item="0", membership=(("a", 0.5), ("b", 0.5)), response="both"),
        Item(item="0", membership=(("b", 1.0),), response="bbb"),
    ]
    rows = corpus_of(items).train
    assert sorted(row.membership.tolist() for row in rows) == [[0, 1], [0.5, 0.5], [1, 0]]


# ---------------------------------------------------------------- batches


def hard_corpus() -> Corpus:
    return corpus_of([i for i in texts() if i.membership[0][0] != "c"])


def test_groups_get_their_share_of_rows_exactly_in_the_long_run():
    batches = Batches(hard_corpus(), rows=5, seed=0)
    shares = np.array([0.73, 0.27])
    drawn = sum(batches.draw(shares).drawn for _ in range(40))
    assert drawn.sum() == 200
    assert np.abs(drawn - 200 * shares).max() < 1


def test_no_row_comes_twice_before_all_others_of_its_group_came():
    corpus = hard_corpus()
    size = sum(row.membership[0] > 0 for row in corpus.train)
    batches = Batches(corpus, rows=1, seed=0)
    seen = [id(batches.draw(np.array([1.0, 0.0])).rows[0]) for _ in range(2 * size)]
    assert len(set(seen[:size])) == len(set(seen[size:])) == size
    assert seen[:size] != seen[size:]  # shuffled anew


def test_a_resumed_run_draws_what_it_would_have_drawn():
    corpus, shares = hard_corpus(), np.array([0.6, 0.4])
    ours, other = Batches(corpus, rows=3, seed=1), Batches(corpus, rows=3, seed=1)
    for _ in range(17):
        ours.draw(shares)
    other.restore(json.loads(json.dumps(ours.state())))
    for _ in range(5):
        assert [id(r) for r in ours.draw(shares).rows] == [id(r) for r in other.draw(shares).rows]


def row_losses(batch):
    """Any loss that a token may have: here a row's own."""
    return np.array([float(row.tokens.sum() % 7) for row in batch.rows])


def test_row_weights_make_the_weighted_sum_of_group_means_by_brute_force():
    batches = Batches(hard_corpus(), rows=6, seed=0)
    batch, w = batches.draw(np.array([0.5, 0.5])), np.array([0.2, -0.8])
    losses = row_losses(batch)
    expected = 0.0
    for group, weight in enumerate(w):
        mine = [n for n, row in enumerate(batch.rows) if row.membership[group]]
        total = sum(losses[n] * batch.num_learnt[n] for n in mine)
        expected += weight * total / sum(batch.num_learnt[n] for n in mine)
    found = (batch.row_weights(w) * batch.num_learnt * losses).sum()
    assert found == pytest.approx(expected)


def test_with_more_groups_than_rows_the_loss_is_right_on_average():
    corpus = hard_corpus()
    w = np.array([0.3, 0.7])
    one = Batches(corpus, rows=1, seed=0)  # takes turns: one group a batch
    drawn = [one.draw(np.array([0.5, 0.5])) for _ in range(400)]
    mean = np.mean([(b.row_weights(w) * b.num_learnt).sum() for b in drawn])
    # Where every token's loss is 1, the weighted sum of means is the sum of the weights.
    assert mean == pytest.approx(1.0, abs=1e-9)


def test_sampling_by_weights_weighs_all_tokens_of_a_group_alike():
    batches, w = Batches(hard_corpus(), rows=10, seed=0), np.array([0.8, 0.2])
    batch = batches.draw(w)
    assert batch.drawn.tolist() == [8, 2]
    tokens = batch.membership.T @ batch.num_learnt
    per_group = [
        (batch.membership[:, g] * batch.row_weights(w) * batch.num_learnt).sum() for g in range(2)
    ]
    assert per_group == pytest.approx([0.8, 0.2])
    assert tokens.sum() == batch.num_learnt.sum()


def test_a_soft_member_counts_in_both_groups_by_its_shares():
    rows = [
        Row(tokens=np.arange(5, dtype=np.int32), first=1, num_bytes=4.0, membership=m)
        for m in (np.array([1.0, 0.0]), np.array([0.25, 0.75]), np.array([0.0, 1.0]))
    ]
    corpus = Corpus(names=("a", "b"), train=rows, probe=rows, test=rows)
    assert corpus.num_tokens.tolist() == [5.0, 7.0]  # 4 + 1 and 3 + 4
    batch = Batches(corpus, rows=4, seed=0).draw(np.array([0.5, 0.5]))
    weights = batch.row_weights(np.array([0.5, 0.5]))
    total = batch.membership.T @ batch.num_learnt
    by_hand = [
        sum(share * 0.5 / total[g] for g, share in enumerate(row.membership)) for row in batch.rows
    ]
    assert weights == pytest.approx(by_hand)


# ---------------------------------------------------------------- responses


def test_the_target_writes_what_is_missing_at_temperatures_in_turns():
    target, helper, tokenizer = llama(0), llama(1, layers=1), byte_tokenizer()
    items = [
        Item(item=f"{n}", membership=((group, 1.0),), prompt=f"say {n}{group}")
        for n in range(2)
        for group in "ab"
    ]
    items.append(Item(item="9", membership=(("a", 1.0),), response="given"))
    options = {"temperatures": (0.0, 1.0), "max_tokens": 6, "seed": 3}
    written = with_responses(items, target, helper, tokenizer, **options)

    assert written[-1] == items[-1]
    for item in written[:2]:  # first turn of each group: greedy, as the target's own argmax
        ids = tokenizer.encode(item.prompt, add_special_tokens=False)
        for token in item.response_tokens:
            scores = target(input_ids=torch.tensor([ids])).logits[0, -1]
            assert token == int(scores.argmax())
            ids.append(token)
    again = with_responses(items, target, helper, tokenizer, **options)
    assert again == written
    other = with_responses(items, target, helper, tokenizer, **(options | {"seed": 4}))
    assert [i.response_tokens for i in other[:2]] == [i.response_tokens for i in written[:2]]
    assert [i.response_tokens for i in other[2:4]] != [i.response_tokens for i in written[2:4]]


def test_a_prompt_without_room_for_a_response_is_refused():
    item = Item(item="0", membership=(("a", 1.0),), prompt="x" * 300)
    with pytest.raises(ConfigError, match="has 300 tokens"):
        with_responses(
            [item], llama(0), None, byte_tokenizer(), temperatures=(0.0,), max_tokens=9, seed=0
        )
