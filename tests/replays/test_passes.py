"""How finished texts are read: heads, padding, quick products, prefixes read once.

python -m pytest tests/replays/test_passes.py
"""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_specfair.conformance.reference import plain_scores, random_prompts
from lm_eval_specfair.conformance.tiny_families import family
from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.passes.one_pass import OnePass
from lm_eval_specfair.replays.passes.quick_products import QuickLinear, quicken
from lm_eval_specfair.replays.passes.score_head import ScoreMap
from lm_eval_specfair.replays.passes.shared_prefix import PrefixReader
from lm_eval_specfair.replays.passes.text_batches import TextBatch, batches

from support.architectures import build
from support.recurrent_families import recurrent

WHOLE = slice(0, None)


def text(prompt, response, name):
    return KnownText(
        request_id=f"{name}", task="toy", doc_id=0, prompt=prompt, response=response, text=""
    )


def texts_behind(prefix, number=5, vocab_size=64, seed=0):
    """Texts of several lengths that begin alike, two of them with the same prompt."""
    tails = random_prompts(2 * number, longest=9, vocab_size=vocab_size, seed=seed)
    prompts = [prefix + tail for tail in tails[:number]]
    prompts[1] = prompts[0]
    return [text(prompt, tails[number + n], n) for n, prompt in enumerate(prompts)]


def each_alone(model, batch):
    rows = [each.prompt + each.response for each in batch.texts]
    scores = [plain_scores(model, row[:-1]) for row in rows]
    return torch.cat(
        [s[len(each.prompt) - 1 :] for s, each in zip(scores, batch.texts, strict=True)]
    )


# ------------------------------------------------------------------ scores


def test_scores_made_from_the_last_layer_are_those_of_the_whole_model(target):
    batch = TextBatch(texts_behind([]))
    reader = OnePass(target)
    assert reader.score_map == ScoreMap()
    separate = reader.read(batch).scores(WHOLE)
    reader.score_map = None

    torch.testing.assert_close(separate, reader.read(batch).scores(WHOLE))


SHAPE = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        ("granite", {"logits_scaling": 4.0}, ScoreMap(factor=pytest.approx(0.25))),
        ("gemma2", {"final_logit_softcapping": 3.0}, ScoreMap(cap=3.0)),
        ("cohere", {"logit_scale": 0.5}, ScoreMap(factor=pytest.approx(0.5))),
    ],
)
def test_scores_that_are_scaled_or_capped_are_made_from_the_last_layer_too(kind, changes, expected):
    model = build(kind, SHAPE | HEADS | changes)
    reader, batch = OnePass(model), TextBatch(texts_behind([], vocab_size=30))

    assert reader.score_map == expected
    torch.testing.assert_close(
        reader.read(batch).scores(WHOLE), each_alone(model, batch), rtol=1e-4, atol=1e-4
    )


def test_a_model_whose_scores_are_made_otherwise_is_read_whole(target, monkeypatch):
    other = copy.deepcopy(target)
    forward = type(other).forward

    def shifted(self, *args, **options):
        output = forward(self, *args, **options)
        output.logits = output.logits + torch.linspace(0, 1, 260)
        return output

    monkeypatch.setattr(type(other), "forward", shifted)
    reader, batch = OnePass(other), TextBatch(texts_behind([]))

    assert reader.score_map is None
    torch.testing.assert_close(
        reader.read(batch).scores(WHOLE), each_alone(other, batch), rtol=1e-4, atol=1e-4
    )


def test_padded_batches_change_nothing(target):
    reader = OnePass(target)
    in_batches = list(batches(texts_behind([], number=12), [reader]))
    assert len(in_batches) < 12
    for batch in in_batches:
        torch.testing.assert_close(
            reader.read(batch).scores(WHOLE), each_alone(target, batch), rtol=1e-4, atol=1e-4
        )


# ------------------------------------------------------------------ batches


class Limited:
    def __init__(self, tokens):
        self.tokens_at_once = tokens


prefixes = [[1] * 40, [1] * 70, [2, 3] * 30, [4]]
prompts = st.lists(
    st.tuples(st.sampled_from(prefixes), st.lists(st.integers(1, 3), min_size=1, max_size=6)),
    min_size=1,
    max_size=14,
)


@given(prompts, st.integers(20, 400))
def test_each_text_is_in_one_batch_whose_prompts_begin_alike(parts, most):
    texts = [text(prefix + tail, [5] * 7, n) for n, (prefix, tail) in enumerate(parts)]
    found = list(batches(texts, [Limited(most)]))

    names = [each.request_id for batch in found for each in batch.texts]
    assert sorted(names) == sorted(each.request_id for each in texts)
    for batch in found:
        starts = {tuple(each.prompt[: batch.num_shared]) for each in batch.texts}
        assert len(starts) == 1
        assert all(len(each.prompt) > batch.num_shared for each in batch.texts)
        longest = max(each.num_read for each in batch.texts)
        assert len(batch.texts) == 1 or (longest - batch.num_shared) * len(batch.texts) <= most


def test_texts_that_begin_alike_come_together_and_others_by_length():
    alike = texts_behind([9] * 100)
    others = [text([n + 1] * (3 + n), [5] * 4, f"o{n}") for n in range(4)]
    found = list(batches([*alike, *others], [Limited(2000)]))

    assert [batch.num_shared for batch in found] == [0, 100]
    assert {each.request_id for each in found[0].texts} == {"o0", "o1", "o2", "o3"}
    assert [b.num_shared for b in batches(alike, [Limited(2000)], share=False)] == [0]


def test_a_short_beginning_or_a_small_gain_is_no_prefix():
    chat = [text([9] * 20 + [n], [5] * 4, n) for n in range(5)]
    long = [text([9] * 40 + [n] * 900, [5] * 4, n) for n in range(5)]

    assert {batch.num_shared for batch in batches(chat, [Limited(2000)])} == {0}
    assert {batch.num_shared for batch in batches(long, [Limited(20_000)])} == {0}


# ------------------------------------------------------------------ prefixes


def tokens_read(model, monkeypatch):
    """The number of tokens of each pass, as they come."""
    read, forward = [], type(model.base_model).forward

    def counted(self, input_ids=None, **options):
        read.append(input_ids.numel())
        return forward(self, input_ids=input_ids, **options)

    monkeypatch.setattr(type(model.base_model), "forward", counted)
    return read


def test_a_prefix_is_read_once_and_scores_stay_as_they_are(target, monkeypatch):
    prefix = random_prompts(1, longest=60, vocab_size=260, seed=1)[0] + [7] * 40
    several = texts_behind(prefix, number=12, vocab_size=260)
    reader = OnePass(target)
    [batch] = batches(several, [reader])
    expected = each_alone(target, batch)
    read = tokens_read(target, monkeypatch)
    found = reader.read(batch).scores(WHOLE)
    again = reader.read(batch).scores(WHOLE)

    width = max(each.num_read for each in several)
    behind = (width - len(prefix)) * 12
    # The prefix; the trial, whole and behind the prefix; the texts behind it, twice.
    assert read == [len(prefix), width, width - len(prefix), behind, behind]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(again, found)


@pytest.mark.parametrize("name", ["gemma3", "llama4", "mistral", "granite"])
def test_windows_and_chunks_are_read_behind_a_prefix(name):
    model = family(name)
    batch = TextBatch(texts_behind([n % 23 + 3 for n in range(45)], vocab_size=30), 45)
    reader = OnePass(model)
    found = reader.read(batch).scores(WHOLE)
    expected = each_alone(model, batch)

    assert reader._prefixes.works
    assert float((found - expected).abs().max() / expected.std()) < 2e-3


@pytest.mark.parametrize("name", ["mamba", "phi4_longrope"])
def test_models_without_such_a_cache_are_read_whole(name):
    model = recurrent(name) if name == "mamba" else family(name)
    batch = TextBatch(texts_behind([n % 23 + 3 for n in range(45)], vocab_size=30), 45)
    reader = OnePass(model)
    found = reader.read(batch).scores(WHOLE)
    expected = each_alone(model, batch)

    assert reader._prefixes is None or not reader._prefixes.works
    assert float((found - expected).abs().max() / expected.std()) < 2e-3


def test_a_cache_that_changes_scores_is_not_used(target, monkeypatch):
    behind = PrefixReader._behind
    monkeypatch.setattr(PrefixReader, "_behind", lambda self, tokens: behind(self, tokens) * 1.1)
    reader, batch = OnePass(target), TextBatch(texts_behind([3] * 50), 50)
    found = reader.read(batch).scores(WHOLE)

    assert not reader._prefixes.works
    torch.testing.assert_close(found, each_alone(target, batch), rtol=1e-4, atol=1e-4)


def test_a_prefix_beyond_the_drafters_context_is_read_whole():
    short = llama(0, max_position_embeddings=48)
    batch = TextBatch(texts_behind([3] * 50, vocab_size=200), 50)
    reader = OnePass(short)

    assert reader.read(batch).scores(WHOLE).isfinite().all()


# ------------------------------------------------------------------ quick products


def test_quick_products_change_no_scores(target):
    plain = copy.deepcopy(target)
    tokens = torch.tensor([[5, 6, 7, 8]])
    expected = plain(tokens).logits
    quick = quicken(plain)

    assert any(isinstance(module, QuickLinear) for module in quick.modules())
    torch.testing.assert_close(quick(tokens).logits, expected, rtol=1e-4, atol=1e-4)
    assert dict(quick.named_parameters()).keys() == dict(target.named_parameters()).keys()


def test_quick_products_that_would_change_scores_are_taken_back(target, monkeypatch):
    def wrong(self, inputs):
        return torch.nn.functional.linear(inputs, self.weight, self.bias) + 1

    monkeypatch.setattr(QuickLinear, "forward", wrong)
    kept = quicken(copy.deepcopy(target))

    assert not any(isinstance(module, QuickLinear) for module in kept.modules())
