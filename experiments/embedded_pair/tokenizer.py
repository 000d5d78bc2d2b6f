"""Train the embedded pair's tokenizer: byte-level BPE of 8,192 on a sample of the mixture.

    python experiments/embedded_pair/tokenizer.py --work build/pair

Each language gives at most `SAMPLE_BYTES`, so that rare scripts get merges at all; what is left
of the inequality (bytes per token) is measured and reported by the project, not hidden.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

from languages import LANGUAGES
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

VOCAB_SIZE = 8192
SAMPLE_BYTES = 900_000
END_OF_TEXT = "<|endoftext|>"
# Letters keep their marks (\p{M}), or Hindi, Thai and Khmer words fall apart at every vowel sign.
WORDS = (
    r"[^\r\n\p{L}\p{M}\p{N}]?[\p{L}\p{M}]+|\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The pair never saw a chat: the template only joins what was said, so that harness flags work.
CHAT_TEMPLATE = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"


def sample(work: Path) -> Iterator[str]:
    for language in LANGUAGES:
        total = 0
        for line in (work / "corpus/train" / f"{language.code}.jsonl").open(encoding="utf-8"):
            text = json.loads(line)["text"]
            total += len(text.encode())
            if total > SAMPLE_BYTES:
                break
            yield text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder that corpus.py filled")
    work = parser.parse_args().work
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_token_length=24,
    )
    tokenizer.train_from_iterator(sample(work), trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    wrapped.save_pretrained(work / "tokenizer")


if __name__ == "__main__":
    main()
