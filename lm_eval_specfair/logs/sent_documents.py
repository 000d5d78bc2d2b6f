"""The documents that were sent, which say what a log does not: the groups of each request.

A JSON object a line: what the benchmark's or batch's own input was, with fields that name groups.
A request finds its document by an id that both have, else by its prompt.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.escape import one_line
from lm_eval_specfair.logs.logged_request import LoggedRequest, Prompt
from lm_eval_specfair.text_lines import file_lines, parse_json

_IDS = ("custom_id", "session_id", "conversation_id", "request_id", "doc_id", "id")
_PROMPTS = ("prompt", "text", "messages", "input_ids", "prompt_token_ids")


def json_lines(path: Path) -> Iterable[tuple[int, Mapping[str, Any]]]:
    """The objects of a JSON Lines file with their line numbers; blank lines are passed over.

    Raises:
        ConfigError: If it cannot be read, or a line is no JSON object.
    """
    try:
        for number, line in enumerate(file_lines(path), start=1):
            if not line.strip():
                continue
            try:
                data = parse_json(line)
            except (ValueError, RecursionError) as error:
                raise ConfigError(
                    f"{path}:{number} is not JSON ({one_line(error)[:150]})"
                ) from None
            if not isinstance(data, dict):
                raise ConfigError(f"{path}:{number}: expected a JSON object, got {line[:60]!r}")
            yield number, data
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {one_line(error)[:200]}") from None


class SentDocuments:
    """The lines of a file, found by id or by prompt."""

    def __init__(self, path: Path) -> None:
        """Read it all.

        Raises:
            ConfigError: If it cannot be read, or two documents have one id.
        """
        self.path = path
        self._by_name: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._by_prompt: dict[str, tuple[int, Mapping[str, Any]]] = {}
        for index, (number, line) in enumerate(json_lines(path)):
            name = next((str(line[key]) for key in _IDS if line.get(key) not in (None, "")), None)
            if name is not None:
                if name in self._by_name:
                    raise ConfigError(f"{path}:{number}: {one_line(name)[:80]!r} is there twice")
                self._by_name[name] = index, line
            body = line.get("body")
            for holder in (line, body if isinstance(body, dict) else {}):
                prompt = next((holder[key] for key in _PROMPTS if key in holder), None)
                if isinstance(prompt, str | list):
                    self._by_prompt.setdefault(prompt_key(prompt), (index, line))

    def of(self, request: LoggedRequest) -> tuple[int, Mapping[str, Any]]:
        """A request's document, and its number in the file from 0.

        Raises:
            ConfigError: If no document has its id or its prompt.
        """
        for name in request.names:
            if name in self._by_name:
                return self._by_name[name]
        if request.prompt is not None and (key := prompt_key(request.prompt)) in self._by_prompt:
            return self._by_prompt[key]
        named = f"id {request.names[0]!r:.80}" if request.names else "no id"
        prompt = "its prompt" if request.prompt is not None else "no prompt"
        raise ConfigError(
            f"{request.where}: the request has {named} and {prompt}, and no document of "
            f"{self.path} has either; expected the file that was sent"
        )


def prompt_key(prompt: Prompt) -> str:
    """A prompt as text; that of a chat with one message is the message's."""
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        content = prompt[0].get("content")
        if isinstance(content, str):
            return content
    return prompt if isinstance(prompt, str) else json.dumps(prompt, sort_keys=True)
