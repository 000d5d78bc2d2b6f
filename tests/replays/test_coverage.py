"""Draft-vocabulary coverage: the share that counting gives, from runs, samples and texts alone."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.decoding.vocabularies.pruned_vocabulary import pruned_vocabulary
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records
from lm_eval_specfair.replays.draft_coverage import coverage, draft_vocabulary

from support.evaluations import answers, generation, save_pair, specfair
from support.vocabularies import ENGLISH, MIXED, byte_level_bpe, metaspace_bpe

SIZE = 40
KEPT = [0, 3, 4, 10, 39]


def head(path, **tensors):
    """A head's file; other tensors are none of our business."""
    save_file({"lm_head.weight": torch.zeros(2, 2), **tensors}, path)
    return path


def offsets(ids=KEPT):
    return torch.tensor(ids) - torch.arange(len(ids))


def mask(ids=KEPT, dtype=torch.bool):
    found = torch.zeros(SIZE, dtype=torch.bool)
    found[ids] = True
    return found.to(dtype)


@pytest.mark.parametrize(
    "tensors",
    [
        {"d2t": offsets(), "t2d": mask()},
        {"d2t": offsets(), "t2d": mask(dtype=torch.uint8)},
        {"d2t": offsets()},
        {"t2d": mask()},
        {"model.d2t": offsets(), "model.t2d": mask()},
        {"d2t": offsets().int(), "t2d": mask()},
    ],
    ids=["both", "mask of bytes", "offsets", "mask", "named within a model", "32 bits"],
)
def test_the_tokens_of_a_head_are_draft_id_plus_d2t_and_the_places_of_t2d(tensors, tmp_path):
    ids, size = pruned_vocabulary(head(tmp_path / "model.safetensors", **tensors))

    assert ids == set(KEPT)
    assert size == (SIZE if any("t2d" in name for name in tensors) else None)
    assert pruned_vocabulary(tmp_path) == (ids, size)  # the folder says the same


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({}, "neither d2t nor t2d"),
        ({"d2t": offsets(), "t2d": mask([0, 3, 4, 10, 38])}, "of which 4 are the same"),
        ({"d2t": offsets(), "t2d": mask([])}, "t2d names no token"),
        ({"d2t": torch.zeros(5, dtype=torch.int64), "t2d": mask()}, "of which 3 are the same"),
        # Target ids instead of offsets: 39 + 4 is beyond the last token.
        ({"d2t": torch.tensor(KEPT), "t2d": mask()}, "it looks like target ids"),
        ({"d2t": torch.tensor([1, 0])}, "1 tokens twice"),
        ({"d2t": torch.tensor([-1, 0])}, "d2t must be offsets"),
        ({"d2t": torch.zeros(5)}, "must be an offset for each draft token, got torch.float32"),
        ({"t2d": torch.arange(SIZE)}, "must be a mask"),
        ({"t2d": mask()[None]}, "must be a mask"),
    ],
)
def test_tensors_that_contradict_each_other_are_refused_in_one_line(tensors, complaint, tmp_path):
    with pytest.raises(ConfigError) as caught:
        pruned_vocabulary(head(tmp_path / "model.safetensors", **tensors))

    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_plain_texts_may_begin_with_blank_lines(tmp_path):
    rows = '\n\n{"text": "hello", "group": "en"}\n'
    (tmp_path / "texts.jsonl").write_text(rows)
    found = coverage([tmp_path / "texts.jsonl"], "embedded", tokenizer="embedded", min_requests=1)
    assert set(found.groups) == {"en"}


def test_pickles_and_files_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="is a pickle, which is not read"):
        draft_vocabulary(str(tmp_path / "pytorch_model.bin"), None)
    (tmp_path / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ConfigError, match="expected a safetensors file"):
        draft_vocabulary(str(tmp_path / "model.safetensors"), None)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="there is no such file"):
        draft_vocabulary(str(tmp_path / "model.safetensors"), None)
    with pytest.raises(ConfigError, match="nor a tokenizer"):
        draft_vocabulary(str(tmp_path), None)


# Counted


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """English and German, in files of their own."""
    folder = tmp_path_factory.mktemp("texts")
    (folder / "en.txt").write_text("\n\n".join(ENGLISH))
    (folder / "de.txt").write_text("\n\n".join(MIXED[:2] * 3), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def target_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("target")
    byte_level_bpe(MIXED, 450).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def head_file(tmp_path_factory):
    """Of every third token of the target."""
    ids = torch.arange(0, 450, 3)
    kept = torch.zeros(450, dtype=torch.bool)
    kept[ids] = True
    path = tmp_path_factory.mktemp("head") / "model.safetensors"
    return head(path, d2t=ids - torch.arange(len(ids)), t2d=kept)


def counted(tokenizer, texts: list[str], ids) -> float:
    tokens = [t for text in texts for t in tokenizer.encode(text, add_special_tokens=False)]
    return float(np.mean([token in ids for token in tokens]))


def test_coverage_of_texts_is_the_share_of_their_tokens_by_group(texts, target_folder, head_file):
    summary = coverage([texts], str(head_file), tokenizer=str(target_folder), min_requests=5)

    tokenizer, ids = byte_level_bpe(MIXED, 450), set(range(0, 450, 3))
    for group, expected in (("en", ENGLISH), ("de", MIXED[:2] * 3)):
        found = summary.groups[group]["draft_vocabulary_coverage"]
        assert found.value == pytest.approx(counted(tokenizer, expected, ids))
        assert summary.groups[group]["conditional_acceptance_rate"] is None


def test_a_drafters_tokenizer_covers_the_tokens_that_it_spells_too(texts, target_folder, tmp_path):
    own, tokenizer = metaspace_bpe(MIXED, 430), byte_level_bpe(MIXED, 450)
    own.save_pretrained(tmp_path)

    summary = coverage([texts], str(tmp_path), tokenizer=str(target_folder))

    # Spelled by hand: a Metaspace token is text with a block for each space.
    spelled = {token.replace("▁", " ").encode() for token in own.get_vocab()}
    spelled |= {bytes([byte]) for byte in range(256)}
    pieces = [
        tokenizer.backend_tokenizer.decoder.decode([token]).encode()
        for token in tokenizer.convert_ids_to_tokens(
            [t for text in ENGLISH for t in tokenizer.encode(text)]
        )
    ]
    expected = np.mean([piece in spelled for piece in pieces])
    assert summary.groups["en"]["draft_vocabulary_coverage"].value == pytest.approx(expected)


def test_the_targets_own_tokenizer_covers_everything(texts, target_folder):
    summary = coverage([texts], str(target_folder), tokenizer=str(target_folder))

    assert summary.overall["draft_vocabulary_coverage"].value == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose drafter has another tokenizer, in four groups."""
    folder = tmp_path_factory.mktemp("run")
    tokenizers = byte_level_bpe(ENGLISH, 380), metaspace_bpe(MIXED, 430)
    models = (
        llama(seed, layers=1, vocab_size=len(each)) for seed, each in enumerate(tokenizers, start=7)
    )
    pair = save_pair(folder / "pair", *models, tokenizers)
    requests = [
        generation(f"{text} {number}", number, task=f"toy_{language}")
        for language, text in zip(("en", "de", "ru", "zh"), ENGLISH, strict=False)
        for number in range(3)
    ]
    answers(specfair(pair, folder / "records"), requests)
    return folder


def test_a_run_counts_the_same_tokens_while_it_decodes(run):
    recorded = {
        record.request_id: record.num_covered_tokens for record in read_records(run / "records")
    }
    assert all(number is not None for number in recorded.values())

    summary = coverage(
        [run / "records"], str(run / "pair/drafter"), tokenizer=str(run / "pair/target"),
        min_requests=1,
    )  # fmt: skip

    tokens = sum(record.num_generated_tokens for record in read_records(run / "records"))
    found = summary.overall["draft_vocabulary_coverage"]
    assert found.value == pytest.approx(sum(recorded.values()) / tokens)
    # It stands beside acceptance, with its rank correlation over the groups.
    assert summary.overall["conditional_acceptance_rate"] is not None
    pairs = {(each.figure, each.other) for each in summary.associations}
    assert any(other == "draft_vocabulary_coverage" for _, other in pairs)


@pytest.mark.parametrize("form", ["table", "md", "json"])
def test_a_report_shows_the_coverage_that_was_recorded(run, form, capsys):
    assert main(["report", str(run / "records"), "--min-requests", "1", "--format", form]) == 0

    name = "draft_vocabulary_coverage" if form == "json" else "coverage"
    shown = " ".join(capsys.readouterr().out.split())
    assert name in shown
    assert "has a tokenizer of its own and drafts through the tokens that both have" in shown
    assert "the drafter's vocabulary lacks tokens of the target's" in shown


def test_the_verb_prints_groups_and_the_vocabulary(
    texts, target_folder, head_file, tmp_path, capsys
):
    given = [
        "coverage",
        str(texts),
        "--tokenizer",
        str(target_folder),
        "--draft-vocabulary",
        str(head_file),
    ]

    assert main(given) == 0
    shown = capsys.readouterr().out
    assert "Draft-vocabulary coverage by language: 2 groups" in shown
    assert "can propose 150 tokens of the target's 450 (33.3%)" in " ".join(shown.split())

    assert main([*given, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["run"]["draft_vocabulary"]["num_tokens"] == 150
    assert 0 < data["groups"]["en"]["draft_vocabulary_coverage"]["value"] < 1
    report = sf.coverage(texts, draft_vocabulary=str(head_file), tokenizer=str(target_folder))
    column = report.by_group["draft_vocabulary_coverage"]
    for group, metrics in data["groups"].items():
        assert column[group] == metrics["draft_vocabulary_coverage"]["value"]

    assert main([*given, "-o", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "report.md").is_file()


def test_samples_and_lines_of_prompts_and_responses_are_read(target_folder, head_file, tmp_path):
    rows = [{"prompt": "x ", "response": text, "language": "en"} for text in ENGLISH]
    path = tmp_path / "texts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    tokens = [{"prompt_token_ids": [1], "response_token_ids": [0, 1, 2, 3], "language": "de"}]
    ids = tmp_path / "ids.jsonl"
    ids.write_text("\n".join(json.dumps(row) for row in tokens * 5))

    summary = coverage([path, ids], str(head_file), tokenizer=str(target_folder))

    assert summary.groups["de"]["draft_vocabulary_coverage"].value == 0.5
    assert 0 < summary.groups["en"]["draft_vocabulary_coverage"].value < 1


def test_what_does_not_go_together_is_refused_in_one_line(
    texts, target_folder, head_file, tmp_path
):
    with pytest.raises(ConfigError, match="name the target's tokenizer with --tokenizer"):
        coverage([texts], str(head_file))
    with pytest.raises(ConfigError, match="name --tokenizer"):
        coverage([texts], str(target_folder))
    ids = tmp_path / "ids.jsonl"
    ids.write_text(json.dumps({"prompt_token_ids": [1], "response_token_ids": [449, 450]}))
    with pytest.raises(ConfigError, match="token id 450 is none of the 450"):
        coverage([ids], str(head_file))
    byte_tokenizer().save_pretrained(tmp_path / "bytes")
    with pytest.raises(ConfigError, match="is nothing to replay"):
        coverage([tmp_path / "missing"], str(head_file))
