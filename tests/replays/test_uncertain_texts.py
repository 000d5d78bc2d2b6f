"""What may change where a text's token ids are not all those that the model emitted.

python -m pytest tests/replays/test_uncertain_texts.py
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.decoding.counters import RequestCounters
from lm_eval_specfair.metrics.definitions.rates import UNCERTAIN
from lm_eval_specfair.records import read_records
from lm_eval_specfair.replays.certain_counts import certain_counts
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.replays.sources.replay_sources import read_texts
from lm_eval_specfair.reporting.report.build_report import build_summary, render
from lm_eval_specfair.steps import agreeing_by_marks, steps_of

SETTINGS = {"until": [], "do_sample": False, "max_gen_toks": 12}


def read(tmp_path, response, **settings):
    path = tmp_path / "samples_t.jsonl"
    sample = {"doc_id": 0, "arguments": [["p", SETTINGS | settings]], "resps": [[response]]}
    path.write_text(json.dumps(sample))
    [text] = read_texts(path, byte_tokenizer(), max_length=64, eos_token_id=0).texts
    return text


# ------------------------------------------------------------------ which tokens are certain


@pytest.mark.parametrize(
    ("response", "settings", "num_certain", "num_hidden"),
    [
        ("abcde", {}, None, 0),  # an EOS ended it
        ("abcdefghijkl", {"until": ["\n"]}, None, 0),  # the limit did
        ("abcde", {"until": ["\n"]}, 4, 1),  # its last token may hold the stop's beginning
        ("abcde", {"until": ["\n\n", "Q:"]}, 4, 2),
        ("abcde", {"until": "stop"}, 4, 4),
        ("abcdefghijk", {"until": ["stop"]}, 10, 1),  # no more than the limit leaves
        ("abc\ufffd", {}, 3, 0),  # a cut character
        ("abcdefghijkl\ufffd", {}, 12, 0),  # split into more than the limit, at its end
        ("abcdefghijklm", {}, 0, 0),  # nobody knows where
    ],
)
def test_certain_is_what_gives_back_the_text(tmp_path, response, settings, num_certain, num_hidden):
    text = read(tmp_path, response, **settings)

    expected = None if num_certain == len(text.response) else num_certain
    assert (text.num_certain, text.num_hidden) == (expected, num_hidden)
    assert text.is_certain == (expected is None)


# ------------------------------------------------------------------ what is counted

marks = st.lists(st.booleans(), min_size=1, max_size=24)


def counted(would_keep, length, num_certain, num_hidden=0):
    steps = steps_of(
        len(would_keep),
        agreeing_by_marks(would_keep),
        num_speculative_tokens=length,
        max_new_tokens=None,
    )
    counters = RequestCounters(
        drafted_per_step=steps.drafted,
        accepted_per_step=steps.accepted,
        num_examined=len(steps.examined_places),
    )
    text = KnownText(
        request_id="x", task="t", doc_id=0, prompt=[1], response=[1] * len(would_keep), text="",
        num_certain=num_certain, num_hidden=num_hidden,
    )  # fmt: skip
    return certain_counts(text, counters), counters


@given(marks, st.integers(1, 5), st.integers(0, 24), st.integers(0, 3), st.data())
def test_whatever_the_uncertain_tokens_are_the_bounds_hold(would_keep, length, at, hidden, data):
    num_certain = min(at, len(would_keep))
    counts, _ = counted(would_keep, length, num_certain, hidden)
    a, e = counts["certain_accepted_draft_tokens"], counts["certain_examined_draft_tokens"]
    s, u = counts["certain_spec_steps"], counts["num_uncertain_tokens"]
    # Another truth: the same certain tokens, then as many others, kept or not.
    size = st.lists(
        st.booleans(),
        min_size=len(would_keep) - num_certain + hidden,
        max_size=len(would_keep) - num_certain + hidden,
    )
    truth = would_keep[:num_certain] + data.draw(size)
    if not truth:
        return
    whole, counters = counted(truth, length, None)
    accepted = sum(counters.accepted_per_step)

    assert whole["num_uncertain_tokens"] == 0
    assert whole["certain_examined_draft_tokens"] == counters.num_examined
    assert (
        counters.accepted_per_step[:s] == counted(would_keep, length, None)[1].accepted_per_step[:s]
    )
    if counters.num_examined:
        assert a / (e + u) <= accepted / counters.num_examined <= (a + u) / (e + u)
    most, fewest = s + u, s + -(-u // (length + 1))
    assert a / most <= accepted / counters.num_steps
    assert accepted / counters.num_steps <= (s + a + u + (u > 0)) / fewest - 1 + 1e-9


# ------------------------------------------------------------------ reports


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Texts in two languages, of which one has stop strings and cut characters."""
    folder = tmp_path_factory.mktemp("uncertain")
    lines = [
        {
            "doc_id": n,
            "doc": {"language": ("sw", "uk")[n % 2]},
            "arguments": [
                [
                    "The window shows the window",
                    SETTINGS | {"max_gen_toks": 20, "until": ["\n"] * (n % 2)},
                ]
            ],
            "resps": [[" shows the window" * (1 + n % 3) + "\ufffd" * (n == 3)]],
        }
        for n in range(8)
    ]
    path = folder / "samples_t.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = replay(
        [path], ["prompt_lookup"], folder / "out", tokenizer="embedded", show_progress=False
    )
    assert any("4 texts are certain. 4 were encoded again" in note for note in done.notes())
    return folder / "out"


def test_a_report_says_by_group_what_may_change(run):
    summary = build_summary([run], min_requests=1)
    names = [metric.name for metric in UNCERTAIN]
    sw, uk = summary.groups["sw"], summary.groups["uk"]

    for name in ("conditional_acceptance_rate", "mean_acceptance_length"):
        low, value, high = (uk[key].value for key in (f"{name}_at_least", name, f"{name}_at_most"))
        assert low < value < high
        for key in (f"{name}_at_least", f"{name}_at_most", f"{name}_certain"):
            assert sw[key].value == pytest.approx(sw[name].value)
    assert sw["uncertain_tokens_share"].value == 0
    assert set(names) <= summary.overall.keys()
    note = next(note for note in summary.notes if "uncertain ids" in note)
    low, high = (
        uk[f"conditional_acceptance_rate_{case}"].value for case in ("at_least", "at_most")
    )
    assert f"uk {low:.2f} to {high:.2f}" in note
    told = json.loads(render(summary, "json"))
    assert told["groups"]["uk"]["conditional_acceptance_rate_certain"] is not None
    for form in ("table", "md", "csv", "html"):
        assert render(summary, form)


def test_texts_that_are_all_certain_have_no_such_figures(tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"prompt_token_ids": [5, 6, 5], "response_token_ids": [6, 5, 6]}))
    replay([path], ["prompt_lookup"], tmp_path / "out", show_progress=False)
    [record] = read_records(tmp_path / "out")
    summary = build_summary([tmp_path / "out"], min_requests=1)

    assert record.num_uncertain_tokens is None
    assert not any(metric.name in summary.overall for metric in UNCERTAIN)
