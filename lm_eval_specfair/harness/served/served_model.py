"""`--model specfair --model_args backend=server,...`: lm-eval's tasks asked of a running server."""

import logging
import re
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from typing import Any

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.utils import postprocess_generated_text
from tqdm import tqdm

from lm_eval_specfair.decoding.completion import Completion, Request
from lm_eval_specfair.decoding.loading import hardware, shown_name
from lm_eval_specfair.decoding.stopping import Stopping
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.harness import task_metadata as task_facts
from lm_eval_specfair.harness.generation import read_settings
from lm_eval_specfair.harness.recording.recorded_model import RecordedLM
from lm_eval_specfair.harness.requests import Job, request_ids
from lm_eval_specfair.harness.run_folder import RunFolder
from lm_eval_specfair.harness.served.connecting import Connected, connected
from lm_eval_specfair.harness.served.served_scores import (
    ScoredText,
    refuse_unscored,
    scored_texts,
)
from lm_eval_specfair.harness.served.served_tokens import Messages, ServedTokensLM
from lm_eval_specfair.harness.served.server_arguments import ServerRunArguments
from lm_eval_specfair.serving.served_counts import CONVENTIONS
from lm_eval_specfair.serving.server_decoder import ServerDecoder
from lm_eval_specfair.serving.stop_tokens import StopTokens

logger = logging.getLogger(__name__)

# Requests of a chunk of pairs for each that is under way: else each chunk's end would be idle.
_CHUNK_FACTOR = 4


class ServedLM(RecordedLM, ServedTokensLM):
    """A served model; see `ServerRunArguments` for what `--model_args` may hold."""

    def __init__(self, **arguments: Any) -> None:
        """Ask the server who it is, and open the run's folder.

        Raises:
            ConfigError: If an argument is wrong, or the server cannot be reached or used.
        """
        super().__init__()
        self._arguments = given = ServerRunArguments.read(arguments)
        task_facts.watch(arguments)
        self.tokenizer = self._load_tokenizer()
        self._connected = found = connected(given)
        self._served_name = found.server.facts.model
        self._is_chat = given.endpoint == "chat"
        by_tokens = given.stops == "auto" and self.tokenizer is not None
        decoder = ServerDecoder(
            found.loop,
            found.server,
            found.baseline,
            drafts=given.drafts,
            by_metrics=given.counts == "metrics",
            num_speculative_tokens=given.num_speculative_tokens
            or found.num_speculative_tokens
            or 0,
            decode=self._decode_all if by_tokens else None,
            stop_tokens=StopTokens(self.tokenizer).of if by_tokens else None,
        )
        self._server_decoder = decoder
        self.record_texts(
            decoder,
            self._open_folder(found),
            given,
            mixed_chunk=_CHUNK_FACTOR * given.connection.num_concurrent,
        )

    # ------------------------------------------------------------------ opening

    def _open_folder(self, found: Connected) -> RunFolder:
        given = self._arguments
        settings = {
            **given.settings(),
            "target": shown_name(one_line(found.server.facts.model)),
            "server": found.server.facts.identity,
            "baseline_server": None if found.baseline is None else found.baseline.facts.identity,
            "drafting": found.server.facts.drafting or None,
            "flags": found.flags,
            "num_speculative_tokens": given.num_speculative_tokens or found.num_speculative_tokens,
            "batch_size": given.connection.num_concurrent,
        }
        name = found.server.facts.protocol.name
        return RunFolder(
            given.records_dir,
            name=f"{_file_name(found.server.facts.model)}-{name}",
            resume=given.resume,
            run={
                "settings": settings,
                # The server's own is not known; this is where the client ran.
                "hardware": {"client": hardware(torch.device("cpu"))},
                "served_at": given.places(),
                "counting": {
                    "convention": CONVENTIONS[found.convention],
                    # None: this server does not show whether it pretends its acceptance.
                    "simulated": found.server.facts.simulated,
                },
                "states": {},
            },
        )

    # ------------------------------------------------------------------ generation

    def _jobs(self, requests: list[Instance]) -> Iterator[Job]:
        given = self._arguments
        for place, (instance, name) in enumerate(zip(requests, request_ids(requests), strict=True)):
            context, gen_kwargs = instance.args
            settings = read_settings(
                gen_kwargs,
                default_max_tokens=given.max_gen_toks,
                num_speculative_tokens=max(1, given.num_speculative_tokens),
                seed=given.seed,
            )
            self._refuse_uncountable(settings.stop_strings)
            prompt, asked, error = self._prompt(context, settings.max_new_tokens)
            request = Request(
                request_id=name or f"padding/{place}",
                prompt=prompt,
                stopping=Stopping(
                    max_new_tokens=settings.max_new_tokens, stop_strings=settings.stop_strings
                ),
                asked=asked,
            )
            yield Job(
                place=place, instance=instance, request=request, config=settings.config,
                is_padding=name is None, error=error,
            )  # fmt: skip

    def _refuse_uncountable(self, stop_strings: tuple[str, ...]) -> None:
        given, protocol = self._arguments, self._connected.server.facts.protocol
        if (
            stop_strings
            and given.drafts
            and given.counts == "requests"
            and given.stops == "auto"
            and self.tokenizer is None
            and not protocol.counts_at_stop_strings
        ):
            raise ConfigError(
                f"this task's texts end at stop strings ({stop_strings[0]!r:.40}), and "
                f"api={protocol.name} gives no counts of texts that end so: pass tokenizer= (the "
                "model's folder or hub id), with which they are ended by tokens; or stops=server, "
                "to go without these counts"
            )

    def _prompt(
        self, context: object, max_new_tokens: int
    ) -> tuple[list[int], str | list[dict[str, Any]] | None, Exception | None]:
        """The prompt's token ids, or what is asked in their place, or why it cannot be read."""
        if isinstance(context, Messages):
            return [], context.messages, None
        if self._is_chat:
            return [], [{"role": "user", "content": str(context)}], None
        if self.tokenizer is None:
            return [], str(context), None
        room = None
        if self._max_length is not None:
            room = self._max_length - max_new_tokens
            if room < 1:
                raise ConfigError(
                    f"max_gen_toks {max_new_tokens} leaves no room for the prompt in a context of "
                    f"{self._max_length} tokens; lower it with --gen_kwargs"
                )
        try:
            tokens = self.tok_encode(str(context))
        except Exception as raised:  # a text that the tokenizer cannot read fails alone
            return [], str(context), raised
        return tokens[-room:] if room else tokens or [self.prefix_token_id], None, None

    @cached_property
    def _max_length(self) -> int | None:
        return self._arguments.max_length or self._connected.server.facts.max_length

    def _text(self, job: Job, completion: Completion) -> str:
        """The text as lm-eval gets it: cut at its stops, wherever the server ended it."""
        text = completion.told.text if completion.told is not None else ""
        tokens = completion.token_ids
        # As the in-process engine reads them; a chat's text was parsed by the server.
        if tokens and self.tokenizer is not None and not isinstance(job.request.asked, list):
            text = str(self.tokenizer.decode(tokens, skip_special_tokens=True))
        return str(
            postprocess_generated_text(
                generation=text,
                stop=list(job.request.stopping.stop_strings),
                think_end_token=self._arguments.think_end_token,
            )
        )

    # ------------------------------------------------------------------ scores and the run's end

    def loglikelihood(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-likelihoods of continuations, where the server gives those of prompts."""
        found = self._connected
        refuse_unscored(found.server)
        answers: dict[int, tuple[float, bool]] = {}
        texts = []
        for place, (instance, name) in enumerate(zip(requests, request_ids(requests), strict=True)):
            old = self._folder.done.get(name) if name else None
            if old is not None and old.target_nll_sum is not None:
                answers[place] = -old.target_nll_sum, bool(old.is_greedy)
                continue
            context, continuation = self._encoded(*instance.args)
            texts.append(ScoredText(place, name, instance, [*context, *continuation], len(context)))
        self._folder.begin(requests)
        progress = tqdm(total=len(texts), disable=disable_tqdm, desc="Scoring", unit="request")
        with self._folder.interruptible():
            for text in scored_texts(found.loop, found.server, texts, max_length=self._max_length):
                answers[text.place] = text.result
                if text.name is not None:
                    record = text.record()
                    self._folder.write(record)
                    if record.failure is not None:
                        self._totals.add(record)
                progress.update()
        progress.close()
        return [answers[place] for place in range(len(requests))]

    def _encoded(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """A context and what follows it as tokens, as `--model hf` splits them."""
        if context:
            found: tuple[list[int], list[int]] = self._encode_pair(context, continuation)
            return found
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        prefix = self.prefix_token_id
        return (tokens[:1], tokens[1:]) if tokens[:1] == [prefix] else ([prefix], tokens)

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("`loglikelihood` scores texts here")

    def loglikelihood_rolling(
        self, requests: list[Instance], disable_tqdm: bool = False
    ) -> list[float]:
        """Not asked of servers."""
        raise ConfigError(
            "backend=server does not score whole texts (loglikelihood_rolling); use backend=hf"
        )

    def get_model_info(self) -> dict[str, Any]:
        """This run's totals; lm-eval asks for them when the run is done."""
        self._server_decoder.check()
        self._server_decoder.disconnect()
        counting = self._server_decoder.counting
        if counting.contradictory:
            logger.warning(
                "%d texts have no counts, since what the server said of them contradicts itself "
                "(%s, for one)",
                counting.contradictory, counting.example,
            )  # fmt: skip
        if counting.behind_stops:
            logger.warning(
                "%d tokens were generated behind stop strings that several tokens spell, and "
                "thrown away: the server gives no counts of texts that it ends there itself",
                counting.behind_stops,
            )
        return {"model_source": "server", **self.finish_run(counting=asdict(counting))}


def _file_name(model: str) -> str:
    """A served name as part of a folder's name, whatever the server calls itself."""
    return re.sub(r"[^\w.-]+", "_", model.rsplit("/", 1)[-1])[:80]
