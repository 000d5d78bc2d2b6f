"""Vocabularies padded to other sizes, and tokenizers that are not the target's."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Capability, Counts, RefusedError, Settings
from lm_eval_specfair.conformance.checks.common import asks
from lm_eval_specfair.conformance.reference import random_prompts
from lm_eval_specfair.conformance.trial import Check, Trial

VOCAB = models.VOCAB_SIZE


def padded_vocabulary(trial: Trial) -> None:
    """Drafters of one tokenizer with 4 ids more (whose scores are the largest) or 4 fewer."""
    model = models.target()
    prompts = [tuple(p) for p in random_prompts(6, longest=12, vocab_size=250, seed=20)]
    requests = asks(prompts, 16)
    for own in (VOCAB + 4, VOCAB - 4):
        drafter = models.with_vocabulary(model, own)
        for temperature in (0.0, 1.0):
            settings = Settings(temperature=temperature, batch_size=3)
            what = f"{own} ids, temperature {temperature:g}"
            try:
                answers = trial.decode(model, drafter, requests, settings)
            except RefusedError as error:
                trial.refusal(error, what)
                continue
            if temperature == 0:
                trial.judge(model, requests, answers)
            for answer in answers:
                trial.expect(
                    all(0 <= token < VOCAB for token in answer.token_ids),
                    f"{what}: a padded id came out",
                )
                if answer.counts is not None and own > VOCAB:
                    trial.equal(answer.counts.accepted, answer.counts.drafted, f"{what}, kept")
                if answer.sums and temperature:
                    # q lacks ids that p has: no finite divergence; and the other way round, none.
                    infinite = answer.sums["positions"] if own < VOCAB else 0
                    trial.equal(answer.sums["infinite"], infinite, f"{what}, infinite positions")


def _pair(
    trial: Trial, drafter: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, what: str
) -> bool:
    """Decode a pair; whether it was taken. A text that comes out must be the target's."""
    model = models.target()
    prompts = [tuple(p) for p in random_prompts(3, longest=9, vocab_size=250, seed=21)]
    requests = asks(prompts, 12)
    try:
        answers = trial.backend.decode_pair(
            model, drafter, (models.byte_tokenizer(), tokenizer), requests, Settings()
        )
    except RefusedError as error:
        trial.refusal(error, what)
        return False
    trial.judge(model, requests, answers)
    return True


def same_size_tokenizer(trial: Trial) -> None:
    """As many tokens, in another order: equal sizes prove nothing."""
    other = models.byte_tokenizer(["Ġb", "Ġa", "Ġc"])
    taken = _pair(trial, models.near_drafter(), other, "permuted tokens")
    trial.expect(not taken, "a drafter with permuted tokens was taken without a word")
    taken = _pair(trial, models.near_drafter(), models.byte_tokenizer(), "the same tokens")
    trial.expect(taken, "a drafter with the target's own tokens was refused")


def cross_tokenizer(trial: Trial) -> None:
    """A drafter that says the same in other tokens: refused, or translated.

    It is the target with its tokens renumbered and two left out. Whoever takes it and reads its
    ids as the target's keeps hardly any of its drafts.
    """
    target, drafter, tokenizer = models.translated_pair()
    own = models.byte_tokenizer()
    prompts = [tuple(own.encode(text)) for text in ("Hello, ", "x = [1", "What is")]
    requests = asks(prompts, 12)
    what = f"{len(tokenizer)} tokens for a target of {len(own)}"
    try:
        answers = trial.backend.decode_pair(
            target, drafter, (own, tokenizer), requests, Settings(num_speculative_tokens=3)
        )
    except RefusedError as error:
        trial.refusal(error, what)
        return
    trial.judge(target, requests, answers)
    counts = [answer.counts for answer in answers if answer.counts is not None]
    drafted, kept = (sum(map(sum, each)) for each in _per_step(counts))
    if counts:
        trial.notes.append(f"{what}: {kept} of {drafted} drafts kept")
        trial.expect(
            2 * kept > drafted, f"{what}: taken, but {kept} of {drafted} drafts mean the same"
        )


def _per_step(counts: list[Counts]) -> tuple[list[list[int]], list[list[int]]]:
    return [each.drafted for each in counts], [each.accepted for each in counts]


_TOKENIZERS = frozenset({Capability.TOKENIZERS})

CHECKS = (
    Check(
        number=16,
        name="padded-vocabulary",
        group="vocabulary",
        proves="Padded ids have no mass: they are neither drafted nor emitted.",
        witness="vllm#7252, vllm#13849",
        needs=frozenset({Capability.SAMPLING}),
        body=padded_vocabulary,
        may_refuse=True,
    ),
    Check(
        number=17,
        name="same-size-tokenizer",
        group="vocabulary",
        proves="A drafter with as many tokens but others is refused.",
        witness="sglang#23838, transformers (compares sizes)",
        needs=_TOKENIZERS,
        body=same_size_tokenizer,
    ),
    Check(
        number=18,
        name="cross-tokenizer",
        group="vocabulary",
        proves="A drafter of another tokenizer is refused, or the text is the target's.",
        witness="vllm#38174, llama.cpp#17480",
        needs=_TOKENIZERS,
        body=cross_tokenizer,
        may_refuse=True,
    ),
)
