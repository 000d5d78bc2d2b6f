"""`specfair fit`: what it writes, what takes it, and what it refuses.

python -m pytest tests/fitting/test_fit.py
"""

import json
import logging

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lm_eval_specfair import cli, fit
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.decoding.composed.named_drafters import DrafterName
from lm_eval_specfair.decoding.composed.trusted_first import TrustedFirst
from lm_eval_specfair.decoding.fitted.fitted_folder import (
    prompt_digest,
    read_fitted,
    tokenizer_digest,
)
from lm_eval_specfair.decoding.fitted.ngram_counts import count_ngrams
from lm_eval_specfair.decoding.fitted.ngram_drafter import NgramDrafter
from lm_eval_specfair.decoding.fitted.ngram_model import NgramModel
from lm_eval_specfair.decoding.fitted.suffix_lookup import SuffixLookup, TextStore
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.argument_values import read_drafter
from lm_eval_specfair.harness.model_arguments import Arguments
from lm_eval_specfair.records import read_run
from lm_eval_specfair.records.policy_file import read_policy
from lm_eval_specfair.replays.sources.document_share import DocumentShare

from support.commands import refused
from support.decoding_runs import CPU
from support.evaluations import evaluate, hf, records_of, specfair, texts, toy_task


def answers(folder, number=8):
    """Texts of two languages as token ids, in lines."""
    path = folder / "answers.jsonl"
    lines = [
        {
            "prompt_token_ids": [1, 2 + n],
            "response_token_ids": [5, 6, 7, 8, 5, 6, 7, 9 + n % 2] if n % 2 else [20, 21, 22, 20],
            "language": "de" if n % 2 else "sw",
            "doc_id": n // 2,
        }
        for n in range(number)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path, lines


def test_a_drafter_for_all_is_the_counts_of_its_texts(tmp_path):
    source, lines = answers(tmp_path)
    (folder,) = fit(source, output=tmp_path / "out", order=3)

    assert json.loads((folder / "fitted.json").read_text())["schema_version"] == 1
    about = read_fitted(str(folder)).about
    assert (about.kind, about.order, about.num_texts, about.num_tokens) == ("ngram", 3, 8, 48)
    assert about.tokenizer is None
    expected = NgramModel(
        count_ngrams([([*x["prompt_token_ids"], *x["response_token_ids"]], 2) for x in lines], 3),
        about.vocab_size,
    )
    model = read_fitted(str(folder)).model
    for history in ([5, 6], [6, 7], [1, 2], [20], []):
        assert np.array_equal(model.log_chances(history), expected.log_chances(history))
    assert read_fitted(str(folder)).prompts == {
        prompt_digest(line["prompt_token_ids"]) for line in lines
    }


def test_each_group_gets_its_own_and_a_policy_names_them(tmp_path):
    source, _ = answers(tmp_path)
    found = fit(source, output=tmp_path / "out", group_by="language")
    policy, of_all, *own = found

    assert [path.name for path in found] == ["policy.json", "ngram-all", "ngram-de", "ngram-sw"]
    assert [read_fitted(str(path)).about.num_texts for path in (of_all, *own)] == [8, 4, 4]
    file = read_policy(policy)
    assert file.drafters == {"de": "ngram-de", "sw": "ngram-sw"}
    assert (file.default_drafter, file.default) == ("ngram-all", 4)
    arguments = Arguments.read(None, {"drafter": str(policy)})
    assert [name.other for name in arguments.named_drafters.values()] == [
        str(path) for path in (of_all, *own)
    ]
    # What comes only in German texts has hardly a chance in Swahili ones.
    assert read_fitted(str(own[0])).model.log_chances([5, 6]).argmax() == 7
    assert read_fitted(str(own[1])).model.log_chances([20]).argmax() in (21, 22, 20)


@pytest.mark.parametrize(
    ("text", "has"),
    [("all", [0, 1, 2, 3]), ("even", [0, 2]), ("odd", [1, 3]), ("1/3", [1]), ("0/3", [0, 3])],
)
def test_documents_are_shared_out_by_their_numbers(tmp_path, text, has):
    assert [n for n in range(4) if DocumentShare.read(text).has(n)] == has
    source, lines = answers(tmp_path)
    (folder,) = fit(source, output=tmp_path / text.replace("/", "-"), documents=text)
    read = read_fitted(str(folder))
    assert read.prompts == {
        prompt_digest(line["prompt_token_ids"]) for line in lines if line["doc_id"] in has
    }
    assert read.about.documents == text


def test_documents_with_names_are_all_in_one_share():
    names = [f"page-{n}" for n in range(40)]
    shares = [DocumentShare.read(f"{k}/3") for k in range(3)]
    owners = [[share.has(name) for share in shares] for name in names]
    assert all(sum(each) == 1 for each in owners)
    assert len({tuple(each) for each in owners}) == 3


@pytest.mark.parametrize("text", ["some", "3/3", "1", "-1/2", "1/0", ""])
def test_other_documents_are_refused(text):
    with pytest.raises(ConfigError, match="all, even, odd, or K/N"):
        DocumentShare.read(text)


def test_a_store_keeps_answers_behind_the_ends_of_their_prompts(tmp_path):
    source, _ = answers(tmp_path)
    (folder,) = fit(source, output=tmp_path / "out", kind="lookup")
    store = read_fitted(str(folder)).model
    assert isinstance(store, TextStore)
    match = (0, 0)
    for token in (1, 3, 5):
        match = store.advanced(match, token)
    assert match[1] == 3
    assert store.continuation(match, 3) == [6, 7, 8]


def test_plain_texts_are_fitted_with_a_tokenizer(tmp_path, pair_folder):
    (tmp_path / "texts").mkdir()
    for name in ("de", "sw"):
        (tmp_path / "texts" / f"{name}.txt").write_text(f"{name} a b a b\n\n{name} c")
    policy, of_all, *_ = fit(
        tmp_path / "texts", output=tmp_path / "out", group_by="language",
        tokenizer=str(pair_folder / "target"), documents="even",
    )  # fmt: skip
    about = read_fitted(str(of_all)).about
    assert about.num_texts == 2  # the first paragraph of each
    assert about.tokenizer == tokenizer_digest(byte_tokenizer())
    assert set(read_policy(policy).groups) == {"de", "sw"}


# What a run makes of them

DOCUMENTS = [
    {"prompt": f"{word} {number} {word}", "reference": "", "language": language}
    for number, (word, language) in enumerate([("one", "en"), ("eins", "de")] * 4)
]


def test_runs_draft_with_what_was_fitted_on_runs(pair_folder, tmp_path, caplog):
    task = [toy_task("toy", DOCUMENTS)]
    plain = texts(evaluate(hf(pair_folder), task), "toy")
    first = specfair(pair_folder, tmp_path / "first", drafter="suffix_lookup:2")
    assert texts(evaluate(first, task), "toy") == plain
    assert read_run(tmp_path / "first")["settings"]["drafter"] == "suffix_lookup:2"

    fit(
        tmp_path / "first", output=tmp_path / "fitted", group_by="language",
        tokenizer=str(pair_folder / "target"),
    )  # fmt: skip
    (store,) = fit(
        tmp_path / "first",
        output=tmp_path / "store",
        kind="lookup",
        tokenizer=str(pair_folder / "target"),
    )
    drafter = pair_folder / "drafter"
    for number, name in enumerate(
        [
            f"{tmp_path}/fitted/policy.json",
            f"{tmp_path}/fitted/ngram-all",
            str(store),
            f"{store}:2+{drafter}",
            f"suffix_lookup+{tmp_path}/fitted/ngram-de",
        ]
    ):
        folder = tmp_path / f"run {number}"
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            model = specfair(pair_folder, folder, drafter=name, batch_size=3)
            assert texts(evaluate(model, task), "toy") == plain
        run = read_run(folder)
        assert sum(each.num_accepted_draft_tokens for each in records_of(folder).values()) > 0
        assert run["settings"]["drafter_weights"]
        is_half = name.endswith("ngram-de")
        assert run["totals"]["num_fitted_requests"] == (4 if is_half else 8)
        assert "was fitted on the texts of" in caplog.text
        assert cli.main(["report", str(folder), "--min-requests", "1"]) == 0
    about = json.loads((store / "fitted.json").read_text())
    (store / "fitted.json").write_text(json.dumps(about | {"tokenizer": "sha256:0"}))
    with pytest.raises(ConfigError, match="another tokenizer than the target's"):
        specfair(pair_folder, tmp_path / "other", drafter=str(store))


def test_replays_say_which_texts_were_learnt_and_leave_them_out(tmp_path, capsys, caplog):
    source, _ = answers(tmp_path)
    (folder,) = fit(source, output=tmp_path / "out", documents="even")
    command = ["replay", str(source), "--drafter", str(folder), "--drafter", "suffix_lookup"]
    with caplog.at_level(logging.WARNING):
        assert cli.main([*command, "-o", str(tmp_path / "all")]) == 0
    assert "out was fitted on 4 of these texts" in caplog.text
    assert read_run(tmp_path / "all/out")["totals"]["num_fitted_requests"] == 4
    assert "num_fitted_requests" not in read_run(tmp_path / "all/suffix_lookup")["totals"]
    capsys.readouterr()
    assert cli.main(["report", str(tmp_path / "all/out"), "--min-requests", "1"]) == 0
    assert "was fitted on the texts of 4 requests" in " ".join(capsys.readouterr().out.split())
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert cli.main([*command, "--documents", "odd", "-o", str(tmp_path / "odd")]) == 0
    assert "was fitted on" not in caplog.text
    assert read_run(tmp_path / "odd/out")["totals"]["num_fitted_requests"] == 0


# Names


@pytest.fixture
def fitted(tmp_path):
    source, _ = answers(tmp_path)
    (grams,) = fit(source, output=tmp_path / "grams")
    (store,) = fit(source, output=tmp_path / "store", kind="lookup")
    return str(grams), str(store)


def test_names_are_read_in_their_parts(fitted, monkeypatch, tmp_path):
    grams, store = fitted
    assert DrafterName.read("suffix_lookup") == DrafterName("suffix_lookup", 1, None)
    assert DrafterName.read("suffix_lookup:4") == DrafterName("suffix_lookup", 4, None)
    assert DrafterName.read(f"{store}:4+{grams}") == DrafterName(store, 4, grams)
    assert DrafterName.read("suffix_lookup+small") == DrafterName("suffix_lookup", 3, "small")
    assert DrafterName.read(grams).model is None
    assert DrafterName.read("org/small").model == "org/small"
    made = DrafterName.read(f"{store}+{grams}").made(None, vocab_size=30, device=CPU)
    assert isinstance(made, TrustedFirst)
    assert isinstance(DrafterName.read(grams).made(None, vocab_size=30, device=CPU), NgramDrafter)
    assert isinstance(DrafterName.read(store).made(None, vocab_size=30, device=CPU), SuffixLookup)
    # Beside the policy that names it.
    read = DrafterName.read("store:2+grams", beside=str(tmp_path / "policy.json"))
    assert read == DrafterName(store, 2, grams)


def test_each_combination_has_a_digest_of_its_own(fitted):
    grams, store = fitted
    names = ["suffix_lookup", grams, store, f"{store}:2", f"{store}+{grams}", f"{store}:2+{grams}"]
    names += [f"suffix_lookup+{grams}", "suffix_lookup+small", "suffix_lookup:1+small", "small"]
    digests = [DrafterName.read(name).weights("sha256:1") for name in names]
    assert digests[0] is None
    assert len(set(digests)) == len(names)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("small+suffix_lookup", "expected LOOKUP+DRAFTER"),
        ("prompt_lookup+small", "expected LOOKUP+DRAFTER"),
        ("suffix_lookup+", "expected LOOKUP+DRAFTER"),
        ("suffix_lookup+none", "expected LOOKUP+DRAFTER"),
        ("suffix_lookup+suffix_lookup+small", "expected LOOKUP+DRAFTER"),
        ("suffix_lookup:0+small", "at least 1 token"),
    ],
)
def test_other_names_are_refused_in_a_line(name, expected):
    with pytest.raises(ConfigError, match=expected.replace("+", r"\+")):
        Arguments.read(None, {"drafter": name})


def test_vllm_takes_none_of_them(fitted):
    for name in (*fitted, "suffix_lookup", "suffix_lookup+small"):
        with pytest.raises(ConfigError, match=r"backend=hf"):
            read_drafter(name, on_vllm=True)
    assert read_drafter("prompt_lookup", on_vllm=True) == DrafterName(other="prompt_lookup")


# Files that are not as they were written


@pytest.mark.parametrize("kind", ["ngram", "lookup"])
def test_damaged_files_are_refused_in_a_line(tmp_path, kind):
    source, _ = answers(tmp_path)

    def spoil(change):
        (folder,) = fit(source, output=tmp_path / "out", kind=kind)
        change(folder)
        with pytest.raises(ConfigError, match="is no fitted drafter"):
            read_fitted(str(folder))

    def cut(folder):
        path = folder / "fitted.safetensors"
        path.write_bytes(path.read_bytes()[:-9])

    def changed(name, change):
        def apply(folder):
            tensors = load_file(folder / "fitted.safetensors")
            key = next(key for key in tensors if key.startswith(name))
            change(tensors[key])
            save_file(tensors, folder / "fitted.safetensors")

        return apply

    def without(folder):
        (folder / "fitted.safetensors").unlink()

    def other_version(folder):
        about = json.loads((folder / "fitted.json").read_text())
        (folder / "fitted.json").write_text(json.dumps(about | {"schema_version": 9}))

    for change in (
        cut,
        without,
        other_version,
        changed("tokens", lambda array: array.__setitem__(0, 10_000)),
        changed("begins", lambda array: array.__setitem__(-1, 10_000)),
    ):
        spoil(change)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["{lines}", "--order", "0"], "from 1 to 12"),
        (["{lines}", "--documents", "most"], "all, even, odd, or K/N"),
        (["{lines}", "--documents", "9/10"], "no text is left"),
        (["{missing}"], "is nothing to replay"),
        (["{texts}"], "name the target's tokenizer"),
        (["{lines}", "-o", "{occupied}"], "is no fitted drafter; name another folder"),
    ],
)
def test_wrong_input_is_one_line(tmp_path, capsys, words, expected):
    lines, _ = answers(tmp_path)
    (tmp_path / "texts.jsonl").write_text('{"text": "a b", "group": "de"}\n')
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied/notes.txt").write_text("mine")
    places = {
        "lines": lines,
        "missing": tmp_path / "missing",
        "texts": tmp_path / "texts.jsonl",
        "occupied": tmp_path / "occupied",
    }
    given = [word.format(**places) for word in words]
    output = [] if "-o" in given else ["-o", str(tmp_path / "out")]
    assert cli.main(["fit", *given, *output]) == 2
    assert expected in refused(capsys)
    assert (tmp_path / "occupied/notes.txt").read_text() == "mine"


def test_the_verb_prints_what_it_fitted(tmp_path, capsys):
    source, _ = answers(tmp_path)
    output = str(tmp_path / "out")
    assert cli.main(["fit", str(source), "--group-by", "language", "-o", output]) == 0
    printed = capsys.readouterr().out
    assert "4-grams" in printed
    assert "Swahili (sw)" in printed
    assert f"{output}/ngram-de" in printed
