"""The adapter of transformers' assisted generation.

It takes one request at a time. Draft lengths are held constant: its defaults change them. Counts
are those of its candidate generator, where an accepted token that ends the text is the bonus token.
"""

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.generation.utils import _speculative_sampling

from lm_eval_specfair.conformance.adapter import (
    Answer,
    AnswerCounts,
    Ask,
    AskSettings,
    Backend,
    Capability,
    Drafting,
    RefusedError,
    TokenizerPair,
)
from lm_eval_specfair.conformance.script import Script
from lm_eval_specfair.decoding.acceptance import Verification, draw

NO_EOS = 1_000_000  # an id that no model has


class _ScriptedCandidates:
    """Plays a script as a candidate generator."""

    requires_model_outputs = False

    def __init__(self, script: Script, ask: Ask, num_speculative_tokens: int) -> None:
        self._script, self._ask, self._cap = script, ask, num_speculative_tokens
        self._step = 0

    def get_candidates(self, input_ids: Tensor, **_: Any) -> tuple[Tensor, None]:
        kept = input_ids.shape[1] - len(self._ask.prompt)
        wanted = min(self._cap, self._ask.max_new_tokens - kept - 1)
        drafted = self._script.draft(self._ask.prompt, kept, wanted, self._step)
        self._step += 1
        return torch.cat([input_ids, torch.tensor([drafted], dtype=torch.long)], 1), None

    def update_candidate_strategy(self, input_ids: Tensor, scores: Tensor, matches: int) -> None:
        pass


class AssistedBackend(Backend):
    """`generate(assistant_model=...)`, and `prompt_lookup_num_tokens=`."""

    name = "assisted"
    num_samples = 500
    capabilities = frozenset(Capability) - {
        Capability.BATCHES,
        Capability.SEEDS,
        Capability.FINISH_REASONS,
        Capability.SUMS,
        Capability.PREFILL_TOKEN,
    }

    def versions(self) -> dict[str, str]:
        return {"transformers": transformers.__version__, "torch": torch.__version__}

    def decode(
        self,
        target: PreTrainedModel,
        drafter: Drafting,
        asks: Sequence[Ask],
        settings: AskSettings,
        **more: Any,
    ) -> list[Answer]:
        """Decode requests one by one, with `more` arguments of `generate`."""
        seed = f"{settings.seed}\0{asks[0].name if asks else ''}"
        digest = hashlib.sha256(seed.encode()).digest()
        with _quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(digest[:6], "little"))
            return [_generate(target, drafter, ask, settings, more) for ask in asks]

    def rule(
        self, draft_tokens: Tensor, draft_probs: Tensor | None, target_probs: Tensor, *given: Tensor
    ) -> Verification:
        """`_speculative_sampling`, row by row; a drafter without distributions as a certain one."""
        rows, width = draft_tokens.shape
        if draft_probs is None:
            draft_probs = torch.nn.functional.one_hot(draft_tokens, target_probs.shape[-1])
        accepted, following = [], []
        for row in range(rows):
            with _given_numbers(*(numbers[row] for numbers in given)):
                valid, matches = _speculative_sampling(
                    draft_tokens[row : row + 1],
                    draft_probs[row : row + 1].double().log(),
                    width,
                    target_probs[row : row + 1].double().log(),
                )
            accepted.append(int(matches))
            following.append(int(valid[0, -1]))
        return Verification(torch.tensor(accepted), torch.tensor(following))

    def decode_pair(
        self,
        target: PreTrainedModel,
        drafter: PreTrainedModel,
        tokenizers: TokenizerPair,
        asks: Sequence[Ask],
        settings: AskSettings,
    ) -> list[Answer]:
        """Decode as documented there: with both tokenizers where vocabularies differ in size."""
        more: dict[str, Any] = {}
        if target.config.vocab_size != drafter.config.vocab_size:
            more = {"tokenizer": tokenizers[0], "assistant_tokenizer": tokenizers[1]}
        return self.decode(target, drafter, asks, settings, **more)


def _generate(
    target: PreTrainedModel,
    drafter: Drafting,
    ask: Ask,
    settings: AskSettings,
    more: dict[str, Any],
) -> Answer:
    arguments = {
        "do_sample": settings.temperature > 0,
        "max_new_tokens": ask.max_new_tokens,
        "eos_token_id": list(ask.eos_token_ids) or [NO_EOS],
        "pad_token_id": 0,
        "repetition_penalty": settings.repetition_penalty,
        **more,
    }
    if settings.temperature:
        arguments["temperature"] = settings.temperature
        arguments["top_k"] = settings.top_k or 0
        arguments["top_p"] = 1.0 if settings.top_p is None else settings.top_p
    if ask.stop_strings:
        arguments["stop_strings"] = list(ask.stop_strings)
        arguments["tokenizer"] = spelling_tokenizer(int(target.config.vocab_size))
    if isinstance(drafter, (Script, str)):
        arguments["prompt_lookup_num_tokens"] = settings.num_speculative_tokens
        arguments["max_matching_ngram_size"] = 3
    elif drafter is not None:
        arguments["assistant_model"] = drafter
        drafter.generation_config = GenerationConfig(
            num_assistant_tokens=settings.num_speculative_tokens,
            num_assistant_tokens_schedule="constant",
            assistant_confidence_threshold=0.0,
        )
    tokens = torch.tensor([list(ask.prompt)])
    counts = AnswerCounts(drafted=[], accepted=[])
    make = target._get_candidate_generator

    def make_counted(*args: Any, **kwargs: Any) -> Any:
        if isinstance(drafter, Script):
            scripted = _ScriptedCandidates(drafter, ask, settings.num_speculative_tokens)
            return _counted(scripted, counts)
        return _counted(make(*args, **kwargs), counts)

    with mock.patch.object(target, "_get_candidate_generator", make_counted):
        try:
            output = target.generate(tokens, attention_mask=torch.ones_like(tokens), **arguments)
        except (ValueError, NotImplementedError) as error:
            raise RefusedError(str(error).splitlines()[0]) from error
    return Answer(
        token_ids=output[0, len(ask.prompt) :].tolist(), counts=None if drafter is None else counts
    )


def _counted(generator: Any, counts: AnswerCounts) -> Any:
    """A candidate generator that also counts what it is told of each step."""
    update = generator.update_candidate_strategy

    def counting(input_ids: Tensor, scores: Tensor, num_matches: int) -> None:
        counts.drafted.append(scores.shape[1] - 1)
        counts.accepted.append(int(num_matches))
        update(input_ids, scores, num_matches)

    generator.update_candidate_strategy = counting
    return generator


def spelling_tokenizer(vocab_size: int) -> PreTrainedTokenizerFast:
    """A tokenizer whose token 5 reads `<5>`."""
    words = {f"<{number}>": number for number in range(vocab_size)} | {"abcdef": vocab_size}
    # transformers' search for stops decodes other tokens after "abcdef".
    inner = Tokenizer(models.WordLevel(words, unk_token="abcdef"))
    inner.pre_tokenizer = pre_tokenizers.Split("(?<=>)", "isolated")
    inner.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def _given_numbers(accept: Tensor, following: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Let the rule's two sources of chance return given numbers."""

    def inverted(weights: Tensor, num_samples: int) -> Tensor:
        if not bool(torch.isfinite(weights).all()):
            raise RuntimeError("the residual is NaN")  # as torch.multinomial does
        return draw(weights, following[None])[:, None]

    return mock.patch.multiple(torch, rand_like=lambda *_, **__: accept, multinomial=inverted)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No warnings: each of its draft calls logs one about its own arguments."""
    logging = transformers.utils.logging
    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(level)
