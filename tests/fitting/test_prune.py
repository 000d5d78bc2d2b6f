"""`specfair prune`: a drafter that drafts some tokens only; every text stays the target's own."""

import json
import shutil

import numpy as np
import pytest
import torch

import lm_eval_specfair as sf
from lm_eval_specfair.cli import main
from lm_eval_specfair.conformance.tiny_models import VOCAB_SIZE, byte_tokenizer, disturbed, llama
from lm_eval_specfair.decoding import loading
from lm_eval_specfair.decoding.drafters import NoDrafter
from lm_eval_specfair.decoding.families.cut_head import CutHead, draft_ids
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.draft_vocabulary_file import (
    DRAFT_VOCABULARY,
    cut_to_draft_vocabulary,
    write_draft_vocabulary,
)
from lm_eval_specfair.decoding.vocabularies.pruned_vocabulary import pruned_vocabulary
from lm_eval_specfair.errors import ConfigError

from support.architectures import WITH_PAD, build
from support.decoding_runs import CPU, decode, model_drafter, random_prompts, request
from support.evaluations import answers, generation, records_of, save_pair, specfair

IDS = list(range(0, VOCAB_SIZE, 2))


@pytest.fixture(scope="module")
def pair():
    target = llama(0)
    return target, disturbed(target, 0.01)


@pytest.fixture
def folder(pair, tmp_path):
    return save_pair(tmp_path / "pair", *pair)


def cut(drafter, ids=IDS):
    model = type(drafter)(drafter.config)
    model.load_state_dict(drafter.state_dict())
    model.set_output_embeddings(CutHead(model.get_output_embeddings(), torch.tensor(ids)))
    return model.eval()


def test_its_scores_are_the_whole_ones_and_all_others_have_no_chance(pair):
    _, drafter = pair
    tokens = torch.tensor([[3, 1, 4, 1, 5]])
    whole, some = (model(input_ids=tokens).logits for model in (drafter, cut(drafter)))
    torch.testing.assert_close(some[..., IDS], whole[..., IDS], rtol=1e-5, atol=1e-6)
    others = [token for token in range(VOCAB_SIZE) if token not in IDS]
    assert bool((some[..., others] == -torch.inf).all())
    assert CausalModel(cut(drafter), role="drafter")._fused is not None  # as fast a pass


@pytest.mark.parametrize("length", [1, 4])
def test_greedy_texts_stay_the_targets_and_only_its_tokens_are_kept(pair, length):
    target, drafter = pair
    prompts = random_prompts(9, longest=12, vocab_size=VOCAB_SIZE)
    asked = [request(prompt, 24, name=str(n)) for n, prompt in enumerate(prompts)]
    settings = {"num_speculative_tokens": length, "batch_size": 4}
    plain = decode(target, NoDrafter(CPU), asked, **settings)
    pruned = decode(target, model_drafter(cut(drafter), VOCAB_SIZE), asked, **settings)
    assert [each.token_ids for each in pruned] == [each.token_ids for each in plain]
    kept = 0
    for each in pruned:
        place = 0
        for accepted in each.counters.accepted_per_step:
            assert set(each.token_ids[place : place + accepted]) <= set(IDS)
            place, kept = place + accepted + 1, kept + accepted
    assert kept > 20


def test_sampled_overlap_is_that_of_the_renormalised_drafter(pair):
    target, drafter = pair
    asked = [request([3, 1, 4, 1, 5], 8, name=str(n)) for n in range(3)]
    done = decode(target, model_drafter(cut(drafter), VOCAB_SIZE), asked, temperature=1.0)
    for each in done:
        assert sum(each.counters.drafted_per_step) > 0
        ids = torch.tensor([[*each.request.prompt, *each.token_ids]])
        with torch.inference_mode():
            p, q = (m(input_ids=ids).logits[0, len(each.request.prompt) - 1 : -1] for m in pair)
        some = torch.full_like(q, -torch.inf)
        some[:, IDS] = q[:, IDS]
        overlap = torch.minimum(p.softmax(-1), some.softmax(-1)).sum(-1)
        places, start = [], 0
        counted = each.counters
        for kept, drafted in zip(counted.accepted_per_step, counted.drafted_per_step, strict=True):
            places += range(start, min(start + min(kept + 1, drafted), len(each.token_ids)))
            start += kept + 1
        assert counted.overlap_sum == pytest.approx(float(overlap[places].sum()), abs=1e-4)


def texts(path, words):
    lines = [
        {"text": word, "group": group, "item": n}
        for group, some in words.items()
        for n, word in enumerate(some)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_floor_is_kept_where_frequency_alone_would_not(folder, tmp_path, capsys):
    source = texts(tmp_path / "t.jsonl", {"en": ["aaaa bbbb cccc"] * 50, "uk": ["xyzw"] * 2})
    given = ["prune", str(folder / "drafter"), str(source), "--draft-vocabulary", "6"]
    assert main([*given, "-o", str(tmp_path / "frequent")]) == 0
    assert "0.0%" in capsys.readouterr().out
    assert main([*given, "--coverage-floor", "0.4", "-o", str(tmp_path / "fair")]) == 0
    assert "20.0%" not in capsys.readouterr().out
    tokenizer = byte_tokenizer()
    ids, size = pruned_vocabulary(tmp_path / "fair" / DRAFT_VOCABULARY)
    assert (len(ids), size) == (6, VOCAB_SIZE)
    for text in ("aaaa bbbb cccc", "xyzw"):
        tokens = [*tokenizer.encode(text), tokenizer.eos_token_id]
        assert np.mean([token in ids for token in tokens]) >= 0.4
    shares = sf.prune(
        folder / "drafter",
        source,
        output=tmp_path / "again",
        draft_vocabulary=6,
        coverage_floor=0.4,
    )
    assert min(shares.values()) >= 0.4


def test_runs_and_replays_take_the_folder(folder, tmp_path):
    source = texts(tmp_path / "t.jsonl", {"en": ["a long story of a fox"] * 9})
    pruned = tmp_path / "pruned"
    sf.prune(folder / "drafter", source, output=pruned, draft_vocabulary=12)
    asked = [generation(f"text {n}", n, max_gen_toks=24) for n in range(4)]
    whole = answers(specfair(folder, tmp_path / "whole"), asked)
    run = tmp_path / "run"
    assert answers(specfair(folder, run, drafter=str(pruned)), asked) == whole
    ids, _ = pruned_vocabulary(pruned / DRAFT_VOCABULARY)
    for record in records_of(run).values():
        assert {token for each in record.discarded_token_ids for token in each} <= ids
    steps = {
        name: {key: r.accepted_per_step for key, r in records_of(path).items()}
        for name, path in (("run", run), ("whole", tmp_path / "whole"))
    }
    assert steps["run"] != steps["whole"]
    [replayed] = sf.replay(run, drafter=str(pruned), output=tmp_path / "replay")
    again = {key: r.accepted_per_step for key, r in records_of(replayed.path).items()}
    assert again == steps["run"]


def test_what_cannot_be_pruned_is_one_line(folder, tmp_path):
    source = texts(tmp_path / "t.jsonl", {"en": ["abcdefghij"], "uk": ["klmnopqrst"]})
    drafter, out = folder / "drafter", tmp_path / "out"
    for given, said in (
        ({"draft_vocabulary": 0}, "from 1 to the drafter's"),
        ({"draft_vocabulary": 10**6}, "from 1 to the drafter's"),
        ({"draft_vocabulary": 5, "coverage_floor": 1.5}, "from 0 to 1"),
        ({"draft_vocabulary": 5, "coverage_floor": 0.9}, "cannot cover 90.0%"),
        ({"draft_vocabulary": 5, "documents": "7/9"}, "no text is left"),
    ):
        with pytest.raises(ConfigError, match=said) as error:
            sf.prune(drafter, source, output=out, **given)
        assert "\n" not in str(error.value)
        assert not out.exists()
    with pytest.raises(ConfigError, match="must be a folder"):
        sf.prune("hub/name", source, output=out, draft_vocabulary=5)
    with pytest.raises(ConfigError, match="not empty"):
        sf.prune(drafter, source, output=folder, draft_vocabulary=5)


def test_another_models_vocabulary_and_soft_caps_are_refused(folder, tmp_path):
    shutil.copytree(folder / "drafter", tmp_path / "other")
    write_draft_vocabulary(tmp_path / "other", [1, 2, 3], VOCAB_SIZE - 1)
    with pytest.raises(ConfigError, match="make it anew"):
        specfair(folder, None, drafter=str(tmp_path / "other"))
    capped = build("gemma2", WITH_PAD | {"final_logit_softcapping": 3.0})
    write_draft_vocabulary(tmp_path / "other", [1, 2, 3], capped.config.vocab_size)
    with pytest.raises(ConfigError, match="soft cap"):
        cut_to_draft_vocabulary(capped, str(tmp_path / "other"))
    plain = loading.load_model(str(folder / "drafter"), "drafter")
    assert draft_ids(cut_to_draft_vocabulary(plain, str(folder / "drafter"))) is None
