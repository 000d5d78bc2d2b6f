"""Checks of vocabularies padded to other sizes, and of tokenizers that are not the target's."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lm_eval_specfair.conformance import tiny_models as models
from lm_eval_specfair.conformance.adapter import Answer, AskSettings, Capability, RefusedError
from lm_eval_specfair.conformance.checks.common import asks, prompts_of, totals
from lm_eval_specfair.conformance.trial import Trial, check

VOCAB = models.VOCAB_SIZE


@check(16, "vocabulary", "vllm#7252, vllm#13849", Capability.SAMPLING, may_refuse=True)
def padded_vocabulary(trial: Trial) -> None:
    """Padded ids have no mass: they are neither drafted nor emitted."""
    # Drafters of one tokenizer with 4 ids more (whose scores are the largest) or 4 fewer.
    model = models.target()
    requests = asks(prompts_of(6, 12, seed=20, vocab_size=250), 16)
    for own in (VOCAB + 4, VOCAB - 4):
        drafter = models.with_vocabulary(model, own)
        for temperature in (0.0, 1.0):
            settings = AskSettings(temperature=temperature, batch_size=3)
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


def _decoded_pair(
    trial: Trial,
    target: PreTrainedModel,
    drafter: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    what: str,
) -> list[Answer] | None:
    """Decode with a drafter's tokenizer; None where the pair is refused. Texts are judged."""
    own = models.byte_tokenizer()
    prompts = [tuple(own.encode(text)) for text in ("Hello, ", "x = [1", "What is")]
    requests, settings = asks(prompts, 12), AskSettings(num_speculative_tokens=3)
    try:
        answers = trial.backend.decode_pair(target, drafter, (own, tokenizer), requests, settings)
    except RefusedError as error:
        trial.refusal(error, what)
        return None
    trial.judge(target, requests, answers)
    return answers


def _is_understood(trial: Trial, answers: list[Answer], what: str) -> bool | None:
    """Whether most drafts mean the same to both models; None of a decoder without counts."""
    if not any(answer.counts for answer in answers):
        return None
    kept, drafted = totals(answers)
    trial.notes.append(f"{what}: {kept} of {drafted} drafts kept")
    return 2 * kept > drafted


# The drafters are the target with its tokens renumbered (and two left out, in the second check). A
# decoder that takes one and reads its ids as the target's keeps hardly any of its drafts.


@check(17, "vocabulary", "sglang#23838, transformers (compares sizes)", Capability.TOKENIZERS)
def same_size_tokenizer(trial: Trial) -> None:
    """A drafter with as many tokens but others is refused, or its tokens are translated."""
    what = "renumbered tokens"
    answers = _decoded_pair(trial, *models.translated_pair(same_size=True), what)
    taken = answers is not None and not _is_understood(trial, answers, what)
    trial.expect(not taken, f"a drafter with {what} was taken without a word")
    pair, own = (models.target(), models.near_drafter()), models.byte_tokenizer()
    taken = _decoded_pair(trial, *pair, own, "the same tokens") is not None
    trial.expect(taken, "a drafter with the target's own tokens was refused")


@check(18, "vocabulary", "vllm#38174, llama.cpp#17480", Capability.TOKENIZERS, may_refuse=True)
def cross_tokenizer(trial: Trial) -> None:
    """A drafter of another tokenizer is refused, or the text is the target's."""
    target, drafter, tokenizer = models.translated_pair()
    what = f"{len(tokenizer)} tokens for a target of {len(models.byte_tokenizer())}"
    answers = _decoded_pair(trial, target, drafter, tokenizer, what)
    if answers is not None and _is_understood(trial, answers, what) is False:
        trial.expect(False, f"{what}: taken, but most drafts mean something else")
