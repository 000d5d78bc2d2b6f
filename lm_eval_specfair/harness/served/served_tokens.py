"""What a served model's class knows of tokens and chat templates, with a tokenizer or without."""

import json
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import has_bos_prefix
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.served.server_arguments import ServerRunArguments


class ServedTokensLM(TemplateLM):  # type: ignore[misc]
    """lm-eval's questions about tokens, answered by a tokenizer that need not be there.

    Attributes:
        tokenizer: The target's; None where the user named none.
    """

    _arguments: ServerRunArguments
    _served_name: str

    def _load_tokenizer(self) -> PreTrainedTokenizerBase | None:
        given = self._arguments
        if given.tokenizer is None:
            return None
        try:
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
                given.tokenizer,
                revision=given.revision,
                trust_remote_code=given.trust_remote_code,
            )
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"cannot load tokenizer {given.tokenizer!r}: expected a folder with one, or a hub "
                f"id that can be reached ({str(error).splitlines()[0]:.120})"
            ) from error
        return tokenizer

    def _decode_all(self, tokens: list[int]) -> str:
        assert self.tokenizer is not None
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))

    @property
    def eot_token_id(self) -> int:
        """The tokenizer's EOS."""
        return int(self._needs_tokenizer("this request").eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What an empty prompt is read as: BOS, or EOS where there is none."""
        tokenizer = self._needs_tokenizer("an empty prompt")
        found = tokenizer.bos_token_id
        return int(tokenizer.eos_token_id if found is None else found)

    def _needs_tokenizer(self, what: str) -> PreTrainedTokenizerBase:
        if self.tokenizer is None:
            raise ConfigError(
                f"{what} needs the model's tokenizer: pass tokenizer=, a folder or hub id"
            )
        return self.tokenizer

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids, as `--model hf` reads a prompt."""
        tokenizer = self._needs_tokenizer("reading texts as tokens")
        special: dict[str, bool] = {}
        if add_special_tokens is not None:
            special = {"add_special_tokens": add_special_tokens}
        elif has_bos_prefix(string, getattr(tokenizer, "bos_token", None)):
            special = {"add_special_tokens": False}
        elif self._arguments.add_bos_token is not None:
            special = {"add_special_tokens": self._arguments.add_bos_token}
        return [int(token) for token in tokenizer(string, **special)["input_ids"]]

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval keys its cache of requests by."""
        given = self._arguments
        return (given.tokenizer or self._served_name).replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The template for lm-eval's results file; empty where the server applies its own."""
        if self._arguments.endpoint != "completions":
            return ""
        found: str | None = super().chat_template(chat_template)
        return found

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Messages for the server's own template, or, with endpoint=completions, ours."""
        if self._arguments.endpoint != "completions":
            return Messages(chat_history)
        return str(
            self._needs_tokenizer(
                "--apply_chat_template with endpoint=completions"
            ).apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )
        )


class Messages(str):
    """A chat's messages; as a text it is their JSON, which is what lm-eval sees of it."""

    messages: list[dict[str, Any]]

    def __new__(cls, messages: list[dict[str, Any]]) -> "Messages":
        """Messages as they came."""
        made = super().__new__(cls, json.dumps(messages, ensure_ascii=False))
        made.messages = messages
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep the messages where lm-eval copies or stores a request."""
        return (Messages, (self.messages,))
