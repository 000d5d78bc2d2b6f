"""A Llama and its byte-level BPE tokenizer as a GGUF file, for llama.cpp's server.

    python experiments/serving/write_gguf.py lm_eval_specfair/embedded/target target.gguf

llama.cpp knows no pre-tokenizer with the embedded pair's rule; it is told the nearest one. So ask
with token ids, as `backend=server` does where it has the tokenizer: then the texts are the pair's.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
from transformers import AutoModelForCausalLM, PreTrainedModel

_NORMAL, _CONTROL = 1, 3  # of llama.cpp's token types


def write_gguf(model: PreTrainedModel, path: Path, kind: str, folder: Path | None = None) -> None:
    """Write a Llama, its matrices as numbers of this kind, with the tokenizer of a folder."""
    config: Any = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    if folder is not None:
        _add_tokenizer(writer, json.loads((folder / "tokenizer.json").read_text("utf-8")))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        values = weight.detach().float()
        if name == "lm_head.weight" and config.tie_word_embeddings and folder is not None:
            continue  # llama.cpp takes the embeddings where there is no head
        for part, heads in (
            ("q_proj", config.num_attention_heads),
            ("k_proj", config.num_key_value_heads),
        ):
            if part in name:  # llama.cpp's order of the halves that rotary positions turn
                halves = values.reshape(heads, 2, -1, values.shape[1])
                values = halves.swapaxes(1, 2).reshape(values.shape)
        own = names.get_name(name, try_suffixes=(".weight",))
        array, quantized = values.numpy(), getattr(gguf.GGMLQuantizationType, kind)
        if array.ndim == 2 and kind != "F32":
            writer.add_tensor(own, gguf.quants.quantize(array, quantized), raw_dtype=quantized)
        else:
            writer.add_tensor(own, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: dict[str, Any]) -> None:
    vocabulary: dict[str, int] = dict(tokenizer["model"]["vocab"])
    special = {each["content"]: each["id"] for each in tokenizer["added_tokens"]}
    tokens = sorted(vocabulary | special, key=(vocabulary | special).__getitem__)
    merges = [each if isinstance(each, str) else " ".join(each)
              for each in tokenizer["model"]["merges"]]  # fmt: skip
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("llama-bpe")
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in special else _NORMAL for token in tokens])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(next(iter(special.values())))
    writer.add_add_bos_token(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("model", type=Path, help="folder with a Llama and its tokenizer.json")
    parser.add_argument("output", type=Path, help="the file to write")
    parser.add_argument("--kind", default="F32", help="of numbers: F32, Q8_0 (default: F32)")
    given = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(given.model)
    write_gguf(model, given.output, given.kind, given.model)


if __name__ == "__main__":
    main()
