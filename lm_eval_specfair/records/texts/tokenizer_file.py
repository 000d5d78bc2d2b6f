"""A tokenizer's file read without torch, for runs that did not note what their tokens spell."""

from pathlib import Path

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records.texts.token_pieces import TokenPieces, pieces_of_vocabulary

TOKENIZER_FILE = "tokenizer.json"
_EMBEDDED = Path(__file__).resolve().parents[2] / "embedded"


def tokenizer_file(name: str) -> Path | None:
    """The `tokenizer.json` of a folder, of an embedded model, or of the hub's cache; or None.

    Nothing is downloaded.
    """
    folder = _EMBEDDED / name.removeprefix("embedded/") if name.startswith("embedded/") else None
    for path in (folder, _EMBEDDED / "target" if name == "embedded" else None, Path(name)):
        if path is not None and (found := path / TOKENIZER_FILE).is_file():
            return found
    if Path(name).name == TOKENIZER_FILE and Path(name).is_file():
        return Path(name)
    # Only here: it takes a third of a second.
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, TOKENIZER_FILE)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def pieces_of_file(path: Path) -> TokenPieces:
    """What the tokens of a `tokenizer.json` spell.

    Raises:
        ConfigError: If it is none.
    """
    from tokenizers import Tokenizer  # only here: most runs noted their pieces

    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # it raises nothing more special
        raise ConfigError(
            f"{path} is no tokenizer that can be read ({str(error).splitlines()[0]:.120}); name a "
            f"folder with a {TOKENIZER_FILE}"
        ) from None
    added = tokenizer.get_added_tokens_decoder()
    return pieces_of_vocabulary(
        tokenizer.get_vocab(),
        added={token: one.content for token, one in added.items()},
        special={token for token, one in added.items() if one.special},
        encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
    )
