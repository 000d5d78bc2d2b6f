"""Bug classes of what stands around a decoder, each with the bug put in: 22, 23 and 24.

Each claim is a function; it holds as things are, and fails with the bug.
"""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from lm_eval.models.huggingface import HFLM
from msgspec import structs
from tokenizers.processors import TemplateProcessing
from transformers.cache_utils import CacheLayerMixin

import lm_eval_specfair
from lm_eval_specfair.conformance.suite import HARNESS_CLASSES
from lm_eval_specfair.conformance.tiny_models import byte_tokenizer
from lm_eval_specfair.decoding.cache import RaggedLayer
from lm_eval_specfair.decoding.drafters import NoDrafter
from lm_eval_specfair.decoding.engine import Engine
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.jobs import paired_decoder
from lm_eval_specfair.harness.jobs.paired_decoder import PairedDecoder
from lm_eval_specfair.harness.recording import recorded_model as model_module

from support.evaluations import answers, generation, hf, records_of, save_pair, specfair

BOS = 0


@pytest.fixture(scope="module")
def bos_pair(tmp_path_factory, target, near_drafter):
    """A pair whose tokenizer puts a BOS in front of every text."""

    def tokenizer():
        made = byte_tokenizer()
        made.bos_token = made.eos_token
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{made.bos_token} $A", special_tokens=[(made.bos_token, BOS)]
        )
        return made

    folder = tmp_path_factory.mktemp("bos")
    return save_pair(folder, target, near_drafter, (tokenizer(), tokenizer()))


@pytest.fixture
def calls(monkeypatch):
    """What the engine was asked for: whether with a drafter, and which prompts by name."""
    seen = []
    decode = Engine.decode

    def watched(self, requests, drafter, *, batch_size):
        requests = list(requests)
        arm = "plain" if isinstance(drafter, NoDrafter) else "drafted"
        seen.append((arm, {each.request_id: each.prompt for each in requests}))
        return decode(self, requests, drafter, batch_size=batch_size)

    monkeypatch.setattr(Engine, "decode", watched)
    return seen


REQUESTS = [generation(f"Prompt {n}: ü", doc_id=n, max_gen_toks=6) for n in range(6)]


def run(pair, folder, calls):
    """Records of six requests, decoded in chunks of two, both ways."""
    calls.clear()
    answers(specfair(pair, folder, baseline="all", batch_size=2), REQUESTS)
    return records_of(folder)


# 22: prompts of both arms


def both_arms_read_the_tokens_of_hf(pair, folder, calls, monkeypatch):
    read = []
    generate = HFLM._model_generate

    def watched(self, context, *args, **kwargs):
        read.extend(context.tolist())
        return generate(self, context, *args, **kwargs)

    run(pair, folder, calls)
    monkeypatch.setattr(HFLM, "_model_generate", watched)
    answers(hf(pair, batch_size=1), REQUESTS)
    arms: dict[str, dict[str, list[int]]] = {"plain": {}, "drafted": {}}
    for arm, prompts in calls:
        arms[arm] |= {name: prompt for name, prompt in prompts.items() if not warms_up(name)}
    assert len(arms["plain"]) == len(REQUESTS)
    assert arms["plain"] == arms["drafted"]
    assert sorted(arms["drafted"].values()) == sorted(read)
    assert all(prompt.count(BOS) == 1 and prompt[0] == BOS for prompt in read)


def test_22_both_arms_read_the_tokens_of_hf(bos_pair, tmp_path, calls, monkeypatch):
    both_arms_read_the_tokens_of_hf(bos_pair, tmp_path / "run", calls, monkeypatch)


def test_22_a_second_bos_in_one_arm_is_seen(bos_pair, tmp_path, calls, monkeypatch):
    original = PairedDecoder._run

    def doubled(self, jobs, config, *, plain):
        if plain:
            jobs = [
                dataclasses.replace(
                    job,
                    request=dataclasses.replace(job.request, prompt=[BOS, *job.request.prompt]),
                )
                for job in jobs
            ]
        return original(self, jobs, config, plain=plain)

    monkeypatch.setattr(PairedDecoder, "_run", doubled)
    with pytest.raises(AssertionError):
        both_arms_read_the_tokens_of_hf(bos_pair, tmp_path / "run", calls, monkeypatch)


# 23: paired timing


def warms_up(name):
    return name.startswith("warm-up/")


def arms_are_paired_and_count_token_ids(pair, folder, calls):
    records = run(pair, folder, calls)
    order = [arm for arm, _ in calls if arm]
    assert order[:2] == ["plain", "drafted"]  # both are warmed up
    assert all(all(map(warms_up, prompts)) for _, prompts in calls[:2])
    assert order[2:8] == ["plain", "drafted", "drafted", "plain", "plain", "drafted"]
    for first, second in zip(calls[2:8:2], calls[3:8:2], strict=True):
        assert first[1] == second[1]  # the same requests, one way after the other
    for record in records.values():
        assert record.num_generated_tokens == len(record.generated_token_ids)
        assert record.baseline_generated_tokens == record.num_generated_tokens
        assert record.baseline_agrees


def only_plain_is_warmed_up(self, jobs, config):
    requests = [dataclasses.replace(jobs[0].request, request_id="warm-up/0")]
    for _ in self._decoder.decode(requests, config, plain=True):
        pass


def counts_encoded_text(decoded, text, **options):
    record = GENERATION_RECORD(decoded, text, **options)
    number = len(byte_tokenizer().encode(record.generated_text or "", add_special_tokens=False))
    return structs.replace(record, num_generated_tokens=number)


GENERATION_RECORD = model_module.generation_record


def test_23_arms_are_paired_and_count_token_ids(pair_folder, tmp_path, calls):
    arms_are_paired_and_count_token_ids(pair_folder, tmp_path / "run", calls)


@pytest.mark.parametrize(
    ("owner", "name", "bug"),
    [
        (PairedDecoder, "_warm_up", only_plain_is_warmed_up),
        (paired_decoder, "enumerate", lambda chunks: ((0, chunk) for chunk in chunks)),
        (model_module, "generation_record", counts_encoded_text),
    ],
    ids=["warm-up in one arm", "plain always first", "tokens of re-encoded text"],
)
def test_23_what_biases_the_pairing_is_seen(
    pair_folder, tmp_path, calls, monkeypatch, owner, name, bug
):
    monkeypatch.setattr(owner, name, bug, raising=False)
    # Counts that contradict the steps are refused where the record is read.
    with pytest.raises((AssertionError, ConfigError)):
        arms_are_paired_and_count_token_ids(pair_folder, tmp_path / "run", calls)


# 24: the cache's interface


def the_cache_answers_what_transformers_asks(target):
    assert not RaggedLayer.__abstractmethods__
    for name in CacheLayerMixin.__abstractmethods__:
        asked = inspect.signature(getattr(CacheLayerMixin, name)).parameters
        own = inspect.signature(getattr(RaggedLayer, name))
        own.bind(*[object()] * sum(p.default is p.empty and p.kind < 2 for p in asked.values()))
    CausalModel(target)


def test_24_the_cache_answers_what_transformers_asks(target):
    the_cache_answers_what_transformers_asks(target)


def test_24_no_code_of_ours_calls_what_changed_its_sign_or_went_away():
    package = Path(lm_eval_specfair.__file__).parent
    changed = re.compile(r"\.crop\(|legacy_cache|\.seen_tokens")
    found = [path for path in package.rglob("*.py") if changed.search(path.read_text("utf-8"))]
    assert found == []


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("get_mask_sizes", lambda self, cache_position, layer_idx: (cache_position.shape[0], 0)),
        ("update", lambda self, keys, values, cache_kwargs: (keys, values)),
    ],
    ids=["mask sizes as of 4.x", "update with an argument more"],
)
def test_24_a_cache_of_another_release_is_refused_when_a_model_is_wrapped(
    monkeypatch, target, name, bug
):
    monkeypatch.setattr(RaggedLayer, name, bug)
    with pytest.raises((ConfigError, TypeError)):
        the_cache_answers_what_transformers_asks(target)


def test_each_class_of_the_harness_has_a_test_here():
    names = [name for name in globals() if re.match(r"test_\d+_", name)]
    numbers = {int(name.split("_")[1]) for name in names}
    assert numbers == {each.number for each in HARNESS_CLASSES}
