"""Finished texts of other programs as token ids."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.generation import sampling_of
from lm_eval_specfair.harness.requests import group_fields, request_id
from lm_eval_specfair.records import FinishReason
from lm_eval_specfair.records.requests_file import sample_arguments
from lm_eval_specfair.replays.known_text import KnownText
from lm_eval_specfair.text_lines import file_lines, parse_json

_SAMPLES = re.compile(r"samples_(?P<task>.+?)(_\d{4}-\d\d-\d\dT[\d.-]+)?\.jsonl")
_DEFAULT_MAX_TOKENS = 256  # lm-eval's own, where a task names no limit


class TextEncoder:
    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        max_length: int,
        eos_token_id: int | None,
        temperature: float | None,
    ) -> None:
        self._named = tokenizer
        self._max_length = max_length
        self._eos = eos_token_id
        self._temperature = temperature

    @property
    def _tokenizer(self) -> PreTrainedTokenizerBase:
        if self._named is None:
            raise ConfigError("a source holds texts: name the target's tokenizer with --tokenizer")
        return self._named

    def texts_of(self, path: Path) -> Iterator[KnownText | None]:
        """The texts of a file; None for a line without one."""
        match = _SAMPLES.fullmatch(path.name)
        try:
            for number, line in enumerate(file_lines(path), start=1):
                if not line.strip():
                    continue
                where = f"{path}:{number}"
                try:
                    data = parse_json(line)
                except (ValueError, RecursionError) as error:
                    raise ConfigError(f"{where} is not JSON ({error!s:.150})") from None
                if not isinstance(data, dict):
                    raise ConfigError(f"{where}: expected a JSON object, got {line:.60}")
                if match:
                    yield from self._of_sample(data, match["task"], where)
                else:
                    yield self._of_line(data, path.stem, number, where)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path}: {error}") from None

    def _of_sample(
        self, data: Mapping[str, Any], task: str, where: str
    ) -> Iterator[KnownText | None]:
        arguments = sample_arguments(data.get("arguments"))
        responses = data.get("resps")
        if not arguments or not isinstance(responses, list):
            raise ConfigError(
                f"{where}: expected lm-eval's sample with `arguments` and `resps`, got the keys "
                f"{', '.join(map(str, list(data)[:6]))}"
            )
        for index, (asked, answers) in enumerate(zip(arguments, responses, strict=False)):
            if len(asked) != 2 or not isinstance(asked[1], dict):
                yield None  # a text that was scored
                continue
            context, settings = str(asked[0]), asked[1]
            doc_id = int(data.get("doc_id") or 0)
            for repeat, answer in enumerate(answers if isinstance(answers, list) else [answers]):
                limit = settings.get("max_gen_toks") or settings.get("max_new_tokens")
                yield self._encoded(
                    context,
                    str(answer),
                    request_id=request_id(f"{task}/{doc_id}/{index}/{repeat}", asked),
                    task=task,
                    doc_id=doc_id,
                    group_fields=group_fields(data.get("doc")),
                    max_new_tokens=int(limit or _DEFAULT_MAX_TOKENS),
                    stops=_stops(settings.get("until")),
                    **self._sampling(settings, where),
                )

    def _sampling(self, settings: Mapping[str, Any], where: str) -> dict[str, Any]:
        found = {name: settings.get(name) for name in ("temperature", "top_k", "top_p")}
        for name, value in found.items():
            least = 0 if name == "temperature" else -1
            fits = isinstance(value, int | float) and least <= value < math.inf
            if value is not None and not fits:
                raise ConfigError(
                    f"{where}: {name} must be a number from {least} on, got {value!r:.60}"
                )
        do_sample = settings.get("do_sample")
        if found["temperature"] is None and do_sample is None:
            found["temperature"] = self._temperature
        temperature, top_k, top_p = sampling_of(do_sample, **found)
        return {"temperature": temperature, "top_k": top_k, "top_p": top_p}

    def _of_line(
        self, data: Mapping[str, Any], name: str, number: int, where: str
    ) -> KnownText | None:
        prompt_ids = _ids(data.get("prompt_token_ids"), where, "prompt_token_ids")
        outputs = data.get("outputs")
        output = outputs[0] if isinstance(outputs, list) and outputs else {}
        output = output if isinstance(output, dict) else {}
        places = (data, "response_token_ids"), (data, "output_ids"), (output, "token_ids")
        response_ids = next(
            (_ids(holder[key], where, key) for holder, key in places if key in holder), None
        )
        prompt, response = data.get("prompt"), data.get("response", output.get("text"))
        if isinstance(data.get("messages"), list):
            prompt, response = self._of_messages(data["messages"], response, where)
        for key, value in (("prompt", prompt), ("response", response)):
            if value is not None and not isinstance(value, str):
                raise ConfigError(f"{where}: {key} must be a text, got {value!r:.60}")
        if (prompt is None and prompt_ids is None) or (response is None and response_ids is None):
            raise ConfigError(
                f"{where}: expected `prompt` and `response`, `prompt_token_ids` and "
                "`response_token_ids`, or `messages` that end with the assistant's, got the keys "
                f"{', '.join(map(str, list(data)[:6]))}"
            )
        known = {"prompt", "response", "messages", "outputs", "meta_info"}
        reason = data.get("finish_reason", output.get("finish_reason"))
        limit = data.get("max_new_tokens", data.get("max_tokens"))
        shared = {
            "request_id": str(data.get("request_id", data.get("id", f"{name}/{number}"))),
            "task": str(data.get("task", name)),
            "doc_id": data["doc_id"] if isinstance(data.get("doc_id"), int) else number - 1,
            "group_fields": {
                key: value
                for key, value in data.items()
                if isinstance(value, str) and key not in known and len(value) <= 100
            }
            | group_fields(data),
            "max_new_tokens": limit if isinstance(limit, int) else None,
            **self._sampling(data, where),
        }
        if prompt_ids is not None and response_ids is not None:
            if not prompt_ids or not response_ids:
                return None
            text = "" if self._named is None else self._decode(response_ids)
            text = text if response is None else str(response)
            return KnownText(
                prompt=prompt_ids,
                response=response_ids,
                text=text,
                finish_reason=reason if reason in ("stop", "eos", "length") else None,
                **shared,
            )
        return self._encoded(str(prompt), str(response), stops=(), **shared)

    def _of_messages(
        self, messages: Sequence[Any], response: object, where: str
    ) -> tuple[str, object]:
        given = list(messages)
        if not all(isinstance(each, dict) and _is_said(each) for each in given):
            raise ConfigError(
                f"{where}: expected messages with `role` and a text as `content`, got {given!r:.60}"
            )
        if response is None and given and given[-1].get("role") == "assistant":
            response = given.pop().get("content")
        try:
            prompt = self._tokenizer.apply_chat_template(
                given, tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            raise ConfigError(
                f"{where}: the tokenizer's chat template does not take these messages "
                f"({str(error).splitlines()[0]:.120})"
            ) from None
        return str(prompt), response

    def _encoded(
        self, prompt: str, response: str, *, stops: Sequence[str], **shared: Any
    ) -> KnownText | None:
        """A prompt and its response as ids, split as one text; None where there is no response."""
        special = not self._begins(prompt)
        before = self._encode(prompt, special=special)
        whole = self._encode(prompt + response, special=special)
        is_certain = whole[: len(before)] == before
        tokens = whole[len(before) :] if is_certain else self._encode(response, special=False)
        if not tokens:
            return None
        max_new_tokens: int | None = shared["max_new_tokens"]
        num_certain = self._num_certain(prompt, response, tokens) if is_certain else 0
        num_hidden = 0
        reason: FinishReason | None = None
        if max_new_tokens is not None and len(tokens) >= max_new_tokens:
            if len(tokens) > max_new_tokens and num_certain == len(tokens):
                num_certain = 0  # the model split it into fewer, who knows where
            num_certain = min(num_certain, max_new_tokens)
            tokens, reason = tokens[:max_new_tokens], "length"
        elif stops:  # one may have ended it, whose tokens are not in the text but in part
            num_certain = min(num_certain, len(tokens) - 1)
            num_hidden = max(len(self._encode(stop, special=False)) for stop in stops)
            if max_new_tokens is not None:
                num_hidden = min(num_hidden, max_new_tokens - len(tokens))
        elif self._eos is not None:
            num_certain += num_certain == len(tokens)
            tokens, reason = [*tokens, self._eos], "eos"
        room = self._max_length - (max_new_tokens or len(tokens))
        return KnownText(
            prompt=before[-max(1, room) :] or [self._eos or 0],
            response=tokens,
            text=response,
            finish_reason=reason,
            num_certain=None if num_certain == len(tokens) and not num_hidden else num_certain,
            num_hidden=num_hidden,
            **shared,
        )

    def _num_certain(self, prompt: str, response: str, tokens: Sequence[int]) -> int:
        """Leading tokens that give back the text; a cut character ends them."""
        if self._decode(tokens) == response and "\ufffd" not in response:
            return len(tokens)
        known, _, _ = response.partition("\ufffd")
        special = not self._begins(prompt)
        before = self._encode(prompt, special=special)
        again = self._encode(prompt + known, special=special)[len(before) :]
        pairs = zip(again, tokens, strict=False)
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        return same if known.startswith(self._decode(tokens[:same])) else 0

    def _begins(self, prompt: str) -> bool:
        """Whether the prompt begins with the token that a tokenizer would put before it."""
        return bool(self._tokenizer.bos_token and prompt.startswith(self._tokenizer.bos_token))

    def _encode(self, text: str, *, special: bool) -> list[int]:
        return [int(token) for token in self._tokenizer(text, add_special_tokens=special).input_ids]

    def _decode(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def _is_said(message: Mapping[str, Any]) -> bool:
    """Whether a chat message is text and nothing else; those that call tools may say nothing."""
    content = message.get("content")
    parts = content if isinstance(content, list) else [content]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    silent = content is None and "tool_calls" in message
    return silent or all(isinstance(text, str) for text in texts)


def _ids(value: object, where: str, key: str) -> list[int] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(x) is int and x >= 0 for x in value):
        raise ConfigError(f"{where}: {key} must be a list of token ids, got {value!r:.60}")
    return list(value)


def _stops(value: object) -> list[str]:
    """A task's `until`: a text or several."""
    return [str(stop) for stop in (value if isinstance(value, list) else [value]) if stop]
