"""A drafter with another tokenizer, replayed on its own tokens and counted in bytes."""

import json

import pytest

from lm_eval_specfair.conformance.reference import plain_scores
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama, translated_pair
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import read_records, read_run
from lm_eval_specfair.replays.replay_run import replay
from lm_eval_specfair.reporting.report.build_report import build_summary, render

from support.evaluations import answers, generation, save_pair, specfair
from support.vocabularies import ENGLISH, MIXED, byte_level_bpe, metaspace_bpe

GAMMA = 3
PROMPTS = ["The old miller", "So he took", "1, 2, 3", "x"]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Byte-level BPE of English; a drafter with blocks for spaces; a near one with the target's."""
    tokenizers = byte_level_bpe(ENGLISH, 380), metaspace_bpe(MIXED, 430)
    target, foreign = (
        llama(seed, layers=1, vocab_size=len(each)) for seed, each in enumerate(tokenizers, start=7)
    )
    folder = save_pair(tmp_path_factory.mktemp("pair"), target, foreign, tokenizers)
    llama(9, layers=1, vocab_size=len(tokenizers[0])).save_pretrained(folder / "own")
    tokenizers[0].save_pretrained(folder / "own")
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """Texts that people wrote, whose tokens are taken for the target's greedy choice."""
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [
        {"prompt": text[:20], "response": text[20:], "language": "en", "id": str(number)}
        for number, text in enumerate(ENGLISH)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def replayed(source, pair, output, drafters=("drafter",), **options):
    return replay(
        [source], [str(pair / name) for name in drafters], output,
        tokenizer=str(pair / "target"), lengths=[GAMMA], show_progress=False, **options,
    )  # fmt: skip


def piece(token: str) -> bytes:
    """What a token of the drafter's spells, by hand."""
    if token in ("<s>", "</s>", "<unk>"):
        return b""
    if token.startswith("<0x"):
        return bytes([int(token[3:5], 16)])
    return token.replace("▁", " ").encode()


def test_its_steps_are_those_of_its_own_greedy_choices_along_its_own_tokens(pair, texts, tmp_path):
    done = replayed(texts, pair, tmp_path / "out")

    tokenizer, model = metaspace_bpe(MIXED, 430), llama(8, layers=1, vocab_size=430)
    records = {record.request_id: record for record in read_records(tmp_path / "out")}
    whole = 0
    for number, text in enumerate(ENGLISH):
        record = records[str(number)]
        prompt = tokenizer.encode(text[:20], add_special_tokens=False)
        response = record.generated_token_ids
        expected = [*tokenizer.encode(text, add_special_tokens=False), tokenizer.eos_token_id]
        if expected[: len(prompt)] == prompt:  # else the prompt ends within a token of the text
            assert [*prompt, *response] == expected
            whole += 1
        pieces = [piece(token) for token in tokenizer.convert_ids_to_tokens(response)]
        assert b"".join(pieces).decode().strip() == text[20:].strip()
        # Step by step, from scores of whole prefixes.
        place, accepted, num_bytes = 0, [], 0
        while place < len(response):
            kept = 0
            while kept < GAMMA and place + kept < len(response):
                scores = plain_scores(model, [*prompt, *response[: place + kept]])[-1]
                if int(scores.argmax()) != response[place + kept]:
                    break
                num_bytes += len(pieces[place + kept])
                kept += 1
            accepted.append(kept)
            place += kept + 1
        assert record.accepted_per_step == accepted
        assert record.num_accepted_bytes == num_bytes
        assert record.num_generated_tokens == len(response)
        assert record.num_generated_bytes == len(text[20:].encode())
        assert record.overlap_sum is None
    assert whole > 1
    assert done.in_own_tokens == [str(pair / "drafter")]
    assert "compare bytes (accepted_bytes_share), not tokens" in " ".join(done.notes())


def test_the_target_in_other_ids_is_right_everywhere_and_accepts_all_bytes_but_the_bonus(tmp_path):
    target, own, other = translated_pair()
    pair = save_pair(tmp_path / "pair", target, own, (byte_tokenizer(), other))
    requests = [generation(text, place) for place, text in enumerate(("Hello, ", "x = [1"))]
    answers(specfair(pair, tmp_path / "run", drafter="none"), requests)

    replayed(tmp_path / "run", pair, tmp_path / "out")

    for record in read_records(tmp_path / "out"):
        assert record.num_accepted_draft_tokens == record.num_examined_draft_tokens
        # One byte a token; each step's last token is the target's.
        assert record.num_generated_bytes == record.num_generated_tokens == 20
        assert record.num_accepted_bytes == 20 - record.num_spec_steps


def test_the_target_of_a_run_is_found_without_being_named(tmp_path):
    target, own, other = translated_pair()
    pair = save_pair(tmp_path / "pair", target, own, (byte_tokenizer(), other))
    answers(specfair(pair, tmp_path / "run", drafter="none"), [generation("Hello, ")])

    done = replay(
        [tmp_path / "run"], [str(pair / "drafter")], tmp_path / "out", show_progress=False
    )

    assert done.in_own_tokens == [str(pair / "drafter")]


def test_drafters_of_both_kinds_stand_side_by_side_in_bytes(pair, texts, tmp_path):
    replayed(texts, pair, tmp_path / "alone", ["own"])
    replayed(texts, pair, tmp_path / "both", ["own", "drafter"], target=str(pair / "target"))

    alone = {record.request_id: record for record in read_records(tmp_path / "alone")}
    for record in read_records(tmp_path / "both/own"):
        assert record.accepted_per_step == alone[record.request_id].accepted_per_step
        assert record.num_accepted_bytes is not None
        assert alone[record.request_id].num_accepted_bytes is None
        assert record.overlap_sum is not None  # the target's distributions are for its own tokens
    settings = {
        name: read_run(tmp_path / "both" / name)["settings"].get("drafter_vocabulary")
        for name in ("own", "drafter")
    }
    assert settings == {"own": None, "drafter": {"method": "own_tokens"}}
    report = render(build_summary([tmp_path / "both/drafter"], min_requests=1), "table")
    assert "is a replay on the drafter's own tokens" in " ".join(report.split())
    assert "Accepted" in report


def test_sampled_texts_are_refused_with_the_reason(pair, tmp_path):
    path = tmp_path / "texts.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b c", "temperature": 1.0}))

    with pytest.raises(ConfigError, match="only greedy texts can be replayed"):
        replayed(path, pair, tmp_path / "out", target=str(pair / "target"))
