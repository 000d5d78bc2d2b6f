"""`pieces.json`: what the token ids of a run's records spell, so that nobody needs its tokenizer.

A run writes it when it ends, for the ids that occur. Ids that spell whole characters stand in
`text`, parts of characters in `bytes` (hexadecimal), special tokens by their names in `special`.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import write_file
from lm_eval_specfair.records.reader import RecordBlock
from lm_eval_specfair.records.schema import Record
from lm_eval_specfair.records.texts.piece_alphabets import spelled_tokens

PIECES_FILE = "pieces.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenPieces:
    """What tokens spell: the bytes of some ids, the names of others, which spell nothing."""

    spelled: Mapping[int, bytes] = field(default_factory=dict)
    special: Mapping[int, str] = field(default_factory=dict)

    def of(self, ids: Iterable[int]) -> "TokenPieces":
        """The part of it that is about some ids."""
        wanted = set(ids)
        return TokenPieces(
            spelled={token: self.spelled[token] for token in wanted & set(self.spelled)},
            special={token: self.special[token] for token in wanted & set(self.special)},
        )


def pieces_of_vocabulary(
    vocabulary: Mapping[str, int],
    *,
    added: Mapping[int, str],
    special: Collection[int],
    encode: Callable[[str], Sequence[int]],
) -> TokenPieces:
    """All tokens of a tokenizer; arguments are those of `spelled_tokens`.

    Tokens that spell texts in no alphabet (WordPiece's) are taken as they are written.
    """
    found = spelled_tokens(vocabulary, added=added, special=special, encode=encode)
    names = {token: text for text, token in vocabulary.items()} | dict(added)
    written = {token: text.encode("utf-8", "replace") for token, text in names.items()}
    if found is not None:
        written |= {t: piece for t, piece in enumerate(found.pieces) if piece is not None}
    return TokenPieces(
        spelled={token: piece for token, piece in written.items() if token not in special},
        special={token: names[token] for token in special if token in names},
    )


def collecting(blocks: Iterable[RecordBlock], ids: set[int]) -> Iterator[RecordBlock]:
    """The same blocks; the ids of their tokens, kept or thrown away, are added to `ids`."""
    for block in blocks:
        for record in block.records:
            ids.update(token_ids(record))
        yield block


def token_ids(record: Record) -> set[int]:
    """The ids of a record's tokens, kept or thrown away."""
    return set(record.generated_token_ids or ()).union(*(record.discarded_token_ids or ()))


def write_pieces(folder: Path, pieces: TokenPieces) -> None:
    """Write `pieces.json`, whole or not at all; a `ConfigError` if the folder cannot be written."""
    text, parts = {}, {}
    for token, piece in sorted(pieces.spelled.items()):
        try:
            text[str(token)] = piece.decode()
        except UnicodeDecodeError:
            parts[str(token)] = piece.hex()
    special = {str(token): name for token, name in sorted(pieces.special.items())}
    content = {"text": text, "bytes": parts, "special": special}
    write_file(folder / PIECES_FILE, json.dumps(content, ensure_ascii=False, indent=0) + "\n")


class _File(msgspec.Struct):
    text: dict[int, str] = {}
    bytes: dict[int, str] = {}
    special: dict[int, str] = {}


def read_pieces(folder: Path) -> TokenPieces | None:
    """What a run's tokens spell; None where it was made before runs noted it.

    Raises:
        ConfigError: If the file is not what a run writes.
    """
    path = folder / PIECES_FILE
    try:
        read = msgspec.json.decode(path.read_bytes(), type=_File)
        parts = {token: bytes.fromhex(digits) for token, digits in read.bytes.items()}
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, ValueError, UnicodeError, RecursionError) as error:
        raise ConfigError(
            f"{path} is not what a run writes ({error}); move it away, and the run's tokenizer is "
            "asked instead"
        ) from None
    spelled = {token: text.encode() for token, text in read.text.items()}
    return TokenPieces(spelled=spelled | parts, special=read.special)
