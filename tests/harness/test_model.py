"""`--model specfair` beside `--model hf`: the same texts, in every batch, and a record of each."""

import json
import math
from itertools import pairwise
from types import SimpleNamespace

import pytest
from lm_eval.api.registry import get_model

from lm_eval_specfair import __version__
from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, disturbed, llama
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.harness.totals import COUNTS
from lm_eval_specfair.records import read_run
from lm_eval_specfair.records.texts.token_pieces import read_pieces, token_ids
from lm_eval_specfair.records.texts.tokenizer_file import pieces_of_file
from lm_eval_specfair.reporting.viewer.request_trace import trace_of

from support.evaluations import (
    answers,
    assert_same_records,
    evaluate,
    generation,
    hf,
    records_of,
    run_of,
    save_pair,
    specfair,
    texts,
    toy_task,
)
from support.traces import assert_is_the_record

PROMPTS = (
    "To save a document, open the File menu.",
    "Привет мир",
    "a",
    "你好，世界。",
    "def f(x):\n    return x",
    "",
    "The quick brown fox jumps over the lazy dog. " * 3,
)
DOCUMENTS = [
    {"prompt": prompt, "reference": "It ends.", "language": language}
    for prompt, language in zip(PROMPTS, ("en", "ru", "en", "zh", "en", "en", "en"), strict=True)
    if prompt
]


@pytest.fixture(scope="module")
def plain(pair_folder):
    return hf(pair_folder, batch_size=4)


@pytest.fixture(scope="module")
def words_folder(tmp_path_factory):
    """A pair whose tokens hold up to four characters, so that stops begin and end inside them."""
    letters = "etaoinsh"
    pieces = [f"{a}{b}" for a in letters for b in letters]
    pieces += [f"Ġ{a}{b}." for a in letters for b in letters]
    tokenizer = byte_tokenizer(pieces)
    target = llama(5, vocab_size=len(tokenizer))
    folder = tmp_path_factory.mktemp("words")
    return save_pair(folder, target, disturbed(target, 0.02), tokenizers=(tokenizer, tokenizer))


# ------------------------------------------------------------------ the texts of --model hf


def test_greedy_texts_are_those_of_hf_and_of_every_drafter(pair_folder, plain, tmp_path):
    requests = [generation(prompt, i) for i, prompt in enumerate(PROMPTS) if prompt]
    expected = answers(plain, requests)

    for drafter in (str(pair_folder / "drafter"), "prompt_lookup", "none"):
        folder = tmp_path / drafter.replace("/", "_")
        model = specfair(pair_folder, folder, drafter=drafter, batch_size=4)
        assert answers(model, requests) == expected

        for record, text in zip(by_document(folder), expected, strict=True):
            assert record.generated_text == text
            assert record.num_generated_bytes == len(text.replace("\ufffd", "?").encode())
            assert record.num_generated_chars == len(text)
            assert record.num_generated_tokens == len(record.generated_token_ids or [])


def by_document(folder):
    return sorted(records_of(folder).values(), key=lambda record: record.doc_id)


def test_texts_with_stops_inside_and_across_tokens_are_those_of_hf(words_folder, tmp_path):
    plain = hf(words_folder, batch_size=1)
    tokenizer = plain.tokenizer
    model = specfair(words_folder, tmp_path / "free", batch_size=3)
    prompts = [prompt for prompt in PROMPTS if prompt]
    answers(model, [generation(p, i) for i, p in enumerate(prompts)])
    free = by_document(tmp_path / "free")

    stops: dict[tuple[int, str], str] = {}
    for record in free:
        doc_id = record.doc_id
        pieces = [tokenizer.decode(token) for token in record.generated_token_ids or []]
        for first, second in pairwise(pieces[3:]):
            if len(first) > 1 and "�" not in first + second:
                stops[doc_id, "inside"] = first[1:]
                stops[doc_id, "begins inside, ends in the next"] = first[-1] + second[:1]
                break
    assert {how for _, how in stops} == {"inside", "begins inside, ends in the next"}
    assert len(stops) >= 6
    requests = [
        generation(prompts[doc_id], place, until=[stop, "never met"])
        for place, ((doc_id, _), stop) in enumerate(stops.items())
    ]

    stopped = specfair(words_folder, tmp_path / "stopped", batch_size=3)
    ours = answers(stopped, requests)

    assert ours == answers(plain, requests)
    records = by_document(tmp_path / "stopped")
    for record, (doc_id, _), stop in zip(records, stops, stops.values(), strict=True):
        assert record.finish_reason == "stop"
        assert stop not in (record.generated_text or stop)
        # The token that completes the stop is the last one.
        whole = free[doc_id].generated_token_ids or []
        kept = record.generated_token_ids or []
        assert kept == whole[: len(kept)]
        assert stop in tokenizer.decode(kept)
        assert stop not in tokenizer.decode(kept[:-1])


def test_long_prompts_are_cut_on_the_left_as_hf_cuts_them(pair_folder, plain, tmp_path):
    # 256 positions, a token a byte: the first two are cut, the last just fits.
    room = 256 - 20
    requests = [
        generation("x" * 100 + "0123456789" * 40, 0),
        generation("Việt " * 60, 1),
        generation("y" * room, 2),
    ]

    model = specfair(pair_folder, tmp_path, batch_size=2)

    assert answers(model, requests) == answers(plain, requests)
    assert {record.num_prompt_tokens for record in records_of(tmp_path).values()} == {room}


def test_a_length_limit_without_room_for_a_prompt_is_refused(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path / "run")

    with pytest.raises(ConfigError, match="leaves no room for the prompt"):
        answers(model, [generation("a", max_gen_toks=256)])
    assert not (tmp_path / "run").exists()


def test_an_empty_prompt_is_decoded_behind_the_prefix_token(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path)

    (text,) = answers(model, [generation("")])

    (record,) = records_of(tmp_path).values()
    assert record.num_prompt_tokens == 1
    assert record.generated_text == text


def test_an_empty_text_still_carries_its_acceptance(pair_folder, tmp_path):
    free = specfair(pair_folder, tmp_path / "free")
    (text,) = answers(free, [generation("abc")])
    model = specfair(pair_folder, tmp_path / "stopped")

    (empty,) = answers(model, [generation("abc", until=[text[0]])])

    assert empty == ""
    assert empty.spec.num_steps == 1


# ------------------------------------------------------------------ independence of the batch


def mixed_requests():
    requests = []
    for doc_id, prompt in enumerate(PROMPTS):
        requests += [
            generation(prompt, doc_id, task="greedy", max_gen_toks=5 + 3 * doc_id),
            generation(prompt, doc_id, task="sampled", do_sample=True, temperature=0.8),
            generation(prompt, doc_id, task="cut", do_sample=True, temperature=2.0, top_k=9),
        ]
    return requests


@pytest.fixture(scope="module")
def one_by_one(pair_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("one_by_one")
    model = specfair(pair_folder, folder, batch_size=1, baseline=2)
    return answers(model, mixed_requests()), records_of(folder)


@pytest.mark.parametrize("batch_size", [3, 8, "auto"])
def test_texts_and_records_do_not_depend_on_the_batch(
    pair_folder, one_by_one, tmp_path, batch_size
):
    texts_alone, records_alone = one_by_one
    model = specfair(pair_folder, tmp_path, batch_size=batch_size, baseline=2)

    assert answers(model, mixed_requests()) == texts_alone
    assert_same_records(records_of(tmp_path), records_alone)


def test_texts_and_records_do_not_depend_on_the_order_of_requests(
    pair_folder, one_by_one, tmp_path
):
    texts_alone, records_alone = one_by_one
    model = specfair(pair_folder, tmp_path, batch_size=3, baseline="all")
    requests = mixed_requests()

    found = answers(model, requests[::-1])

    assert found[::-1] == texts_alone
    ours = records_of(tmp_path)
    assert ours.keys() == records_alone.keys()
    for name, record in ours.items():
        assert record.generated_token_ids == records_alone[name].generated_token_ids
        assert record.accepted_per_step == records_alone[name].accepted_per_step


def test_another_seed_samples_other_texts_and_greedy_ones_stay(pair_folder, one_by_one, tmp_path):
    model = specfair(pair_folder, tmp_path, batch_size=8, seed=1)
    requests = mixed_requests()

    found = answers(model, requests)

    for request, text, other in zip(requests, found, one_by_one[0], strict=True):
        assert (text == other) == (request.task_name == "greedy")


def test_repeats_are_samples_and_records_of_their_own(pair_folder, tmp_path):
    sampled = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    task = toy_task("toy", DOCUMENTS[:2], repeats=3, generation_kwargs=sampled)

    results = evaluate(specfair(pair_folder, tmp_path, batch_size=4), [task])

    records = records_of(tmp_path).values()
    assert len(records) == 2 * 3
    for sample in results["samples"]["toy"]:
        own = [r.generated_text for r in records if r.doc_id == sample["doc_id"]]
        assert len(set(own)) == 3
        assert sorted(own) == sorted(sample["resps"][0])


# ------------------------------------------------------------------ lm-eval's options


def test_limit_batch_size_and_generation_settings_of_the_command_line(pair_folder, tmp_path):
    arguments = {
        "pretrained": str(pair_folder / "target"),
        "drafter": str(pair_folder / "drafter"),
        "records_dir": str(tmp_path),
        "num_speculative_tokens": 3,
        "baseline": 1,
    }

    results = evaluate(
        "specfair",
        [toy_task("toy", DOCUMENTS)],
        model_args=arguments,
        batch_size="auto",
        device="cpu",
        limit=4,
        gen_kwargs={"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9},
    )

    records = records_of(tmp_path)
    assert len(records) == 4
    for record in records.values():
        assert record.settings is not None
        assert record.settings.num_speculative_tokens == 3
        assert record.settings.temperature == 0.7
        assert (record.settings.top_k, record.settings.top_p) == (5, 0.9)
        assert record.baseline_agrees is None  # two samples need not agree
    assert sum(record.baseline_seconds is not None for record in records.values()) == 1
    assert results["config"]["specfair"]["records_dir"] == str(tmp_path)
    assert get_model("specfair") is SpecFairLM


def test_drafts_judged_as_blocks_are_recorded_as_such_and_keep_more(pair_folder, tmp_path, capsys):
    folders = {rule: tmp_path / rule for rule in ("token", "block")}
    kept = {}
    for rule, folder in folders.items():
        sampled = {"until": [], "max_gen_toks": 24, "do_sample": True, "temperature": 1.0}
        greedy = toy_task("greedy", DOCUMENTS[:1])
        tasks = [toy_task("toy", DOCUMENTS, repeats=6, generation_kwargs=sampled), greedy]
        evaluate(specfair(pair_folder, folder, verification=rule, baseline=0), tasks)
        records = records_of(folder).values()
        of = {name: [r for r in records if r.task == name] for name in ("toy", "greedy")}
        assert {r.settings.verification for r in of["toy"]} == {rule}
        assert {r.settings.verification for r in of["greedy"]} == {"token"}  # one rule only
        accepted, steps = (
            sum(getattr(r, name) for r in of["toy"])
            for name in ("num_accepted_draft_tokens", "num_spec_steps")
        )
        kept[rule] = accepted / steps
    assert kept["block"] > kept["token"]

    assert main(["compare", *map(str, folders.values()), "--group-by", "task"]) == 0
    assert main(["report", str(folders["block"]), "--group-by", "task"]) == 0
    assert "drafts judged by blocks" in capsys.readouterr().out
    assert main(["policy", str(folders["block"]), "--group-by", "task"]) == 2
    assert "drafts were judged by blocks" in capsys.readouterr().err


def test_a_wrong_verification_is_one_line():
    with pytest.raises(ConfigError, match="verification must be token or block, got 'blocks'"):
        Arguments.read("embedded", {"verification": "blocks"})


def test_a_drafters_own_temperature_is_recorded_replayed_and_said(pair_folder, tmp_path, capsys):
    sampled = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    tasks = [
        toy_task("toy", DOCUMENTS[:4], generation_kwargs=sampled),
        toy_task("greedy", DOCUMENTS[:1]),
    ]
    folders = {own: tmp_path / f"{own}" for own in (None, 0.0, 0.5)}
    for own, folder in folders.items():
        given = {} if own is None else {"drafter_temperature": own}
        evaluate(specfair(pair_folder, folder, baseline=0, **given), tasks)
        for record in records_of(folder).values():
            expected = own if record.task == "toy" else None  # greedy: nothing is drawn
            assert record.settings.drafter_temperature == expected
        assert read_run(folder)["settings"].get("drafter_temperature") == own
    assert main(["compare", str(folders[None]), str(folders[0.5]), "--group-by", "task"]) == 0
    assert main(["report", str(folders[0.5]), "--group-by", "task"]) == 0
    assert "drafts drawn at temperature 0.5" in capsys.readouterr().out
    both = [str(folders[0.0]), str(folders[0.5])]
    assert main(["policy", *both, "--group-by", "task"]) == 2
    assert "drew at different temperatures" in capsys.readouterr().err

    drafter = str(pair_folder / "drafter")
    options = ["--drafter", drafter, "--target", str(pair_folder / "target")]
    again = ["replay", str(folders[None]), *options, "-o", str(tmp_path / "again")]
    assert main([*again, "--drafter-temperature", "0"]) == 0
    replayed = records_of(tmp_path / "again").values()
    found = {(each.task, each.settings.drafter_temperature) for each in replayed}
    assert found == {("toy", 0.0), ("greedy", None)}
    assert read_run(tmp_path / "again")["settings"]["drafter_temperature"] == 0
    evaluate(specfair(pair_folder, tmp_path / "g", baseline=0), [toy_task("g", DOCUMENTS[:1])])
    none = ["replay", str(tmp_path / "g"), *options, "-o", str(tmp_path / "none")]
    assert main([*none, "--drafter-temperature", "0.5"]) == 2
    assert "no text was sampled" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"drafter_temperature": "warm"}, "drafter_temperature must be 0 .* got 'warm'"),
        ({"drafter_temperature": -1}, "drafter_temperature must be 0 .* got -1"),
        (
            {"drafter_temperature": 0.5, "drafter": "prompt_lookup"},
            "is for drafters that draw their tokens, which prompt_lookup does not",
        ),
    ],
)
def test_a_drafters_temperature_that_cannot_be_is_one_line(given, message):
    with pytest.raises(ConfigError, match=message):
        Arguments.read("embedded", given)


def test_a_chat_template_is_applied_as_hf_applies_it(pair_folder, plain, tmp_path):
    task = [toy_task("toy", DOCUMENTS[:3])]
    model = specfair(pair_folder, tmp_path, batch_size=4)

    ours = texts(evaluate(model, task, apply_chat_template=True), "toy")

    assert ours == texts(evaluate(plain, task, apply_chat_template=True), "toy")
    templated = {f"{document['prompt']}\n" for document in DOCUMENTS[:3]}
    lengths = {len(prompt.encode()) for prompt in templated}
    assert {record.num_prompt_tokens for record in records_of(tmp_path).values()} == lengths


def test_a_response_cache_is_refused_with_the_reason(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path / "run")

    with pytest.raises(ConfigError, match=r"--use_cache would replay .* of another drafter"):
        evaluate(model, [toy_task("toy", DOCUMENTS)], use_cache=str(tmp_path / "cache"))
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ the demo suite


@pytest.fixture(scope="module")
def demo_pair(tmp_path_factory):
    """With room for the suite's longest references, which lm-eval doesn't cut."""
    target = llama(0, max_position_embeddings=2048)
    return save_pair(tmp_path_factory.mktemp("demo_pair"), target, disturbed(target, 0.02))


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def demo(demo_pair, demo_folder):
    """The whole suite, two documents a language, and its records."""
    folder = demo_folder
    model = specfair(demo_pair, folder, batch_size=8, baseline=1)
    results = evaluate(model, ["specfair_demo"], limit=2, gen_kwargs={"max_gen_toks": 10})
    return results, records_of(folder), run_of(folder)


def test_demo_texts_are_those_of_hf(demo, demo_pair):
    results, _, _ = demo
    languages = ["en", "ar", "ja"]
    tasks = [f"specfair_demo_{language}" for language in languages]

    plain = hf(demo_pair, batch_size=2)
    theirs = evaluate(plain, tasks, limit=2, gen_kwargs={"max_gen_toks": 10})

    for task in tasks:
        assert texts(results, task) == texts(theirs, task)
        bits = "bits_per_byte,none"
        assert results["results"][task][bits] == pytest.approx(theirs["results"][task][bits])
        assert not {name for name in theirs["results"][task] if "acceptance" in name}


def pooled(records, numerator, denominator):
    return sum(map(numerator, records)) / sum(map(denominator, records))


def test_acceptance_is_in_the_results_of_each_task_pooled_over_its_documents(demo):
    results, records, _ = demo

    for task in results["group_subtasks"]["specfair_demo"]:
        own = [r for r in records.values() if r.task == task]
        decoded = [r for r in own if r.request_type == "generate_until"]
        scored = [r for r in own if r.request_type == "loglikelihood"]
        assert (len(decoded), len(scored)) == (2, 2)
        assert {r.group_fields["language"] for r in own} == {task.rpartition("_")[2]}
        expected = {
            "conditional_acceptance_rate": pooled(
                decoded,
                lambda r: r.num_accepted_draft_tokens,
                lambda r: r.num_examined_draft_tokens,
            ),
            "mean_acceptance_length": pooled(
                decoded,
                lambda r: r.num_accepted_draft_tokens + r.num_spec_steps,
                lambda r: r.num_spec_steps,
            ),
            "overlap": pooled(
                decoded, lambda r: r.overlap_sum, lambda r: r.num_distribution_positions
            ),
        }
        for metric, value in expected.items():
            assert results["results"][task][f"{metric},none"] == pytest.approx(value)
        nats = sum(r.target_nll_sum for r in scored)
        # The reference's own bytes; the delimiter in front of it is scored but not counted.
        delimiter = results["configs"][task]["target_delimiter"]
        num_bytes = sum(r.num_scored_bytes - len(delimiter) for r in scored)
        bits_per_byte = nats / math.log(2) / num_bytes
        assert results["results"][task]["bits_per_byte,none"] == pytest.approx(bits_per_byte)


def test_the_group_shows_the_mean_over_languages(demo):
    results, _, _ = demo
    tasks = results["group_subtasks"]["specfair_demo"]
    assert len(tasks) == 30

    for metric in (
        "conditional_acceptance_rate,none",
        "mean_acceptance_length,none",
        "overlap,none",
        "bits_per_byte,none",
    ):
        mean = sum(results["results"][task][metric] for task in tasks) / len(tasks)
        assert results["groups"]["specfair_demo"][metric] == pytest.approx(mean)


def test_samples_hold_numerators_and_denominators(demo):
    results, records, _ = demo
    task = "specfair_demo_ko"

    for sample in results["samples"][task]:
        (record,) = (
            r
            for r in records.values()
            if (r.task, r.doc_id, r.request_type) == (task, sample["doc_id"], "generate_until")
        )
        counts = (record.num_accepted_draft_tokens, record.num_examined_draft_tokens)
        assert tuple(sample["conditional_acceptance_rate"]) == counts


def test_the_results_file_has_the_totals_of_the_records(demo):
    results, records, run = demo
    shown = results["config"]["specfair"]

    for name in COUNTS:
        total = sum(getattr(record, name) or 0 for record in records.values())
        assert shown["total"][name] == total
        assert total > 0
        own = [r for r in records.values() if r.task == "specfair_demo_fi"]
        assert shown["tasks"]["specfair_demo_fi"][name] == sum(getattr(r, name) or 0 for r in own)
    names = {"num_failed_requests", "lossless_check", "total", "tasks"}
    # The tally is for later readers alone, who hold the records against it.
    assert run["totals"].keys() == names | {"records"}
    assert {name: run["totals"][name] for name in names} == {name: shown[name] for name in names}
    assert shown["lossless_check"]["differing"] == 0
    assert shown["num_failed_requests"] == 0


def test_counts_of_a_record_fit_together(demo):
    _, records, _ = demo

    for record in records.values():
        if record.request_type != "generate_until":
            continue
        assert record.num_generated_tokens == 10 or record.finish_reason == "eos"
        assert record.num_spec_steps == len(record.drafted_per_step)
        assert sum(record.acceptance_histogram) == record.num_spec_steps
        # Each step emits what it accepted and one token more.
        emitted = record.num_accepted_draft_tokens + record.num_spec_steps
        assert emitted >= record.num_generated_tokens
        assert record.num_examined_draft_tokens == record.num_distribution_positions
        assert record.draft_seconds + record.verify_seconds <= record.decode_seconds


def test_traces_are_the_records_of_greedy_sampled_and_looked_up_texts(
    demo, one_by_one, pair_folder, tmp_path
):
    model = specfair(pair_folder, tmp_path, drafter="prompt_lookup", num_speculative_tokens=5)
    answers(model, [generation(prompt, i, max_gen_toks=40) for i, prompt in enumerate(PROMPTS)])
    records = [*demo[1].values(), *one_by_one[1].values(), *records_of(tmp_path).values()]
    generated = [each for each in records if each.request_type == "generate_until"]

    assert any(each.settings.temperature for each in generated)
    for record in generated:
        trace = trace_of(record)
        assert_is_the_record(trace)
        for step in trace.steps:
            assert len(step.thrown_away) == step.num_thrown_away


def test_a_run_notes_what_its_tokens_spell(demo, demo_folder, demo_pair):
    pieces = read_pieces(demo_folder)
    generated = [each for each in demo[1].values() if each.request_type == "generate_until"]

    assert pieces == pieces_of_file(demo_pair / "target" / "tokenizer.json").of(
        token for record in generated for token in token_ids(record)
    )
    for record in generated:
        text = b"".join(pieces.spelled.get(token, b"") for token in record.generated_token_ids)
        assert text.decode("utf-8", "replace") == record.generated_text


# ------------------------------------------------------------------ the paired baseline


@pytest.mark.parametrize(("baseline", "expected"), [(2, 2), (100, 6), ("all", 6), (0, 0)])
def test_exactly_so_many_requests_of_each_task_are_also_decoded_plainly(
    pair_folder, tmp_path, baseline, expected
):
    model = specfair(pair_folder, tmp_path, batch_size=4, baseline=baseline)
    requests = [
        generation(prompt, doc_id, task=task, max_gen_toks=6)
        for doc_id, prompt in enumerate(PROMPTS[:6])
        for task in ("one", "two")
    ]

    answers(model, requests)

    for task in ("one", "two"):
        own = [record for record in records_of(tmp_path).values() if record.task == task]
        paired = [record for record in own if record.baseline_seconds is not None]
        assert len(paired) == expected
        for record in own:
            if record in paired:
                assert record.baseline_agrees is True
                assert record.baseline_seconds > 0
                assert record.baseline_generated_tokens == record.num_generated_tokens
            else:
                assert record.baseline_agrees is None
                assert record.baseline_generated_tokens is None


# ------------------------------------------------------------------ other drafters


def test_without_a_drafter_nothing_is_drafted_and_nothing_measured(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path, drafter="none", baseline=8)

    (text,) = answers(model, [generation("abc")])

    (record,) = records_of(tmp_path).values()
    assert record.settings is not None
    assert record.settings.num_speculative_tokens == 0
    assert record.num_spec_steps == record.num_generated_tokens == 20
    assert record.acceptance_histogram == [20]
    assert (record.num_draft_tokens, record.num_accepted_draft_tokens) == (0, 0)
    assert record.overlap_sum is None
    assert record.num_distribution_positions is None
    assert record.baseline_seconds is None
    assert text.spec.num_examined == 0


def test_prompt_lookup_drafts_what_the_text_repeats(pair_folder, tmp_path):
    model = specfair(pair_folder, tmp_path, drafter="prompt_lookup", num_speculative_tokens=5)

    answers(model, [generation(prompt, i, max_gen_toks=60) for i, prompt in enumerate(PROMPTS)])

    records = list(records_of(tmp_path).values())
    assert sum(record.num_draft_tokens for record in records) > 0
    for record in records:
        # All of q lies on one token, so the overlap is p's mass there, and KL is infinite.
        if record.num_distribution_positions:
            assert 0 < record.overlap_sum < record.num_distribution_positions
            assert record.num_infinite_positions == record.num_distribution_positions


def test_a_policy_file_gives_each_group_its_draft_length(pair_folder, plain, tmp_path):
    policy = {
        "schema_version": 1,
        "group_by": "language",
        "default": 3,
        "groups": {"ru": 6, "zh": 0},
    }
    (tmp_path / "policy.json").write_text(json.dumps(policy))
    model = specfair(
        pair_folder,
        tmp_path / "run",
        batch_size=4,
        num_speculative_tokens=str(tmp_path / "policy.json"),
    )
    task = [toy_task("toy", DOCUMENTS)]

    ours = texts(evaluate(model, task), "toy")

    assert ours == texts(evaluate(plain, task), "toy")
    for record in records_of(tmp_path / "run").values():
        longest = {"ru": 6, "zh": 0, "en": 3}[record.group_fields["language"]]
        assert record.settings.num_speculative_tokens == longest
        assert len(record.acceptance_histogram) == longest + 1
        assert max(record.drafted_per_step) == longest


def test_loaded_models_are_taken_instead_of_folders(
    target, near_drafter, pair_folder, plain, tmp_path
):
    model = SpecFairLM(
        target,
        tokenizer=byte_tokenizer(),
        drafter=near_drafter,
        records_dir=str(tmp_path),
        batch_size=4,
        baseline=0,
    )
    task = [toy_task("toy", DOCUMENTS)]

    results = evaluate(model, task)

    assert texts(results, "toy") == texts(evaluate(plain, task), "toy")
    assert results["config"]["specfair"]["total"]["num_accepted_draft_tokens"] > 0
    settings = run_of(tmp_path)["settings"]
    assert settings["target_weights"].startswith("tensors:")
    assert settings["drafter_weights"].startswith("tensors:")
    assert settings["target_weights"] != settings["drafter_weights"]


# ------------------------------------------------------------------ run.json


def test_run_json_says_how_the_run_was_made(demo, demo_pair):
    _, _, run = demo

    assert run["schema_version"] == 1
    assert run["specfair_version"] == __version__
    assert isinstance(run["command"], list)
    assert run["command"]
    assert {"python", "torch", "transformers", "lm_eval"} <= run["versions"].keys()
    assert run["hardware"]["device"] == "cpu"
    assert run["hardware"]["threads"] >= 1
    assert run["started"] <= run["finished"]
    settings = run["settings"]
    assert settings["target"] == str(demo_pair / "target")
    assert settings["drafter"] == str(demo_pair / "drafter")
    assert settings["num_speculative_tokens"] == 4
    assert settings["baseline"] == 1
    assert settings["seed"] == 0
    assert settings["dtype"] == "float32"
    assert settings["batch_size"] == 8
    digests = {settings["target_weights"], settings["drafter_weights"]}
    assert len(digests) == 2
    assert all(digest.startswith("sha256:") for digest in digests)


def test_the_digest_follows_the_weights_not_the_name(pair_folder, target, near_drafter, tmp_path):
    same = save_pair(tmp_path / "same", target, disturbed(near_drafter, 0.01))
    model = specfair(same, tmp_path / "run")
    answers(model, [generation("abc", max_gen_toks=2)])
    other = specfair(pair_folder, tmp_path / "other")
    answers(other, [generation("abc", max_gen_toks=2)])

    ours, theirs = run_of(tmp_path / "run")["settings"], run_of(tmp_path / "other")["settings"]

    assert ours["target_weights"] == theirs["target_weights"]
    assert ours["drafter_weights"] != theirs["drafter_weights"]


@pytest.mark.parametrize("think_end", [None, 7, "</think>"])
def test_a_thinking_end_that_never_comes_strips_the_leading_space_as_hf_does(
    pair_folder, think_end
):
    model = specfair(pair_folder, None, think_end_token=think_end)
    stopping = SimpleNamespace(stop_strings=())
    job = SimpleNamespace(request=SimpleNamespace(stopping=stopping))
    tokens = model.tok_encode("  so it is")
    assert 7 not in tokens
    # lm-eval strips wherever a token is named, found or not.
    completion = SimpleNamespace(token_ids=tokens)
    assert model._text(job, completion) == ("  so it is" if think_end is None else "so it is")
