"""Pairs of vocabularies: toy ones of a few pieces, and real tokenizers trained on a few lines."""

from collections.abc import Sequence

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.decoding.vocabularies.choice import foreign_drafter, foreign_vocabulary
from lm_eval_specfair.decoding.vocabularies.foreign_drafters import (
    ForeignDrafter,
    IntersectionDrafter,
    TextDrafter,
)
from lm_eval_specfair.decoding.vocabularies.own_context import Translation
from lm_eval_specfair.decoding.vocabularies.token_bytes import Spelling
from lm_eval_specfair.decoding.vocabularies.vocabulary_map import vocabulary_map

# ------------------------------------------------------------------ toy vocabularies

LETTERS = [b"a", b"b", b"c", b"d", b"ab", b"bc", b"abc", b"e"]
"""A target's tokens."""
OTHER_LETTERS = [b"d", b"bc", b"a", b"cd", b"b", b"c", b"ad", b"abcd", b"f"]
"""A drafter's: other tokens, and the shared ones at other places; e is not among them."""


def toy_spelling(pieces: Sequence[bytes], **roles: int) -> Spelling:
    """A vocabulary of these pieces; an id with a role is a special token."""
    spelled = [None if token in roles.values() else piece for token, piece in enumerate(pieces)]
    return Spelling(spelled, frozenset(), roles, {}, adds_space=False)


def longest_first(pieces: Sequence[bytes]):
    """An encoder that takes the longest piece at each place; what no piece begins is left out."""
    by_length = sorted(range(len(pieces)), key=lambda token: -len(pieces[token]))

    def encode(text: str) -> list[int]:
        data, tokens = text.encode(), []
        while data:
            token = next((t for t in by_length if pieces[t] and data.startswith(pieces[t])), None)
            if token is not None:
                tokens.append(token)
            data = data[1 if token is None else len(pieces[token]) :]
        return tokens

    return encode


def toy_drafter(
    model, target: Sequence[bytes], drafter: Sequence[bytes], method: str = "intersection"
) -> ForeignDrafter:
    """A drafting model of the second vocabulary for a target of the first."""
    spelled = toy_spelling(target), toy_spelling(drafter)
    translation = Translation(*spelled, longest_first(drafter))
    wrapped = CausalModel(model, role="drafter")
    if method == "text":
        return TextDrafter(
            wrapped, vocab_size=len(target), translation=translation, encode=longest_first(target)
        )
    shared = vocabulary_map(*spelled, target_size=len(target), drafter_size=model.vocab_size)
    return IntersectionDrafter(wrapped, vocabulary=shared, translation=translation)


# ------------------------------------------------------------------ real tokenizers

ENGLISH = [
    "The old miller walked down to the river and looked at the wheel.",
    "It had not turned since the winter, when the water was frozen over.",
    "Nobody in the village knew how the mill worked, or who had built it.",
    "So he took his hat, locked the door and went to ask the carpenter.",
    "The carpenter said: 'Wood is patient, but water is more patient still.'",
]
MIXED = [
    "Der alte Müller ging zum Fluss hinunter und sah sich das Rad an.",
    "Seit dem Winter hatte es sich nicht gedreht, weil das Wasser gefroren war.",
    "Старый мельник спустился к реке и посмотрел на колесо.",
    "Никто в деревне не знал, как работает мельница.",
    "老磨坊主走到河边，看着水轮。",
    "The wheel of the old mill: 1, 2, 3, 40 turns.",
]


def _wrapped(tokenizer: Tokenizer, **special: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def byte_level_bpe(texts: Sequence[str], size: int, eos: str = "<|end|>", markers=()):
    """GPT-2's kind."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[eos, *markers],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return _wrapped(tokenizer, eos_token=eos, pad_token=eos)


def metaspace_bpe(texts: Sequence[str], size: int):
    """Llama 2's kind: spaces as blocks, one put before each text, and tokens for single bytes."""
    special = ["<unk>", "<s>", "</s>"]
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, special_tokens=[*special, *fallback], show_progress=False
        ),
    )
    plain = Tokenizer.from_str(_without_added(tokenizer.to_str(), fallback))
    return _wrapped(plain, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _without_added(text: str, names: Sequence[str]) -> str:
    """Byte tokens are ordinary ones; the trainer only knows how to reserve them as special."""
    import json

    data = json.loads(text)
    data["added_tokens"] = [each for each in data["added_tokens"] if each["content"] not in names]
    return json.dumps(data)


def unigram(texts: Sequence[str], size: int):
    """T5's and XLM-R's kind, without byte tokens: characters that it never saw are unknown."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=size,
            special_tokens=["<pad>", "</s>", "<unk>"],
            unk_token="<unk>",
            show_progress=False,
        ),
    )
    tokenizer.add_tokens([AddedToken("<think>", special=False)])
    return _wrapped(tokenizer, eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


def wordpiece(texts: Sequence[str], size: int):
    """BERT's kind, which drops spaces."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator(
        texts,
        trainers.WordPieceTrainer(
            vocab_size=size, special_tokens=["[UNK]", "[SEP]"], show_progress=False
        ),
    )
    return _wrapped(tokenizer, eos_token="[SEP]", unk_token="[UNK]")


def real_drafter(model, target_tokenizer, drafter_tokenizer, target_size: int, method: str):
    """A drafting model with its tokenizer, for a target with another one."""
    vocabulary = foreign_vocabulary(
        target_tokenizer,
        drafter_tokenizer,
        "drafter",
        target_size=target_size,
        drafter_size=model.config.vocab_size,
        method=method,
    )
    return foreign_drafter(
        CausalModel(model, role="drafter"), vocabulary, target_tokenizer, drafter_tokenizer
    )
