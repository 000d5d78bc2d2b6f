"""The digest of a target follows the weights that are read, whatever files they are in."""

import json

import pytest

from lm_eval_specfair.conformance.tiny_models import llama
from lm_eval_specfair.decoding.weight_digests import (
    digest_on_disk,
    loading_settings,
    weights_digest,
)

EMPTY = "e3b0c442"  # how the SHA-256 of nothing begins


@pytest.fixture
def folder(tmp_path):
    for name, content in (("q4.gguf", b"four"), ("q8.gguf", b"eight"), ("config.json", b"{}")):
        (tmp_path / name).write_bytes(content)
    return tmp_path


def test_of_several_gguf_files_the_one_that_is_read_counts(folder):
    four, eight = (
        weights_digest(str(folder), None, {"gguf_file": name}) for name in ("q4.gguf", "q8.gguf")
    )

    assert four != eight
    (folder / "q8.gguf").write_bytes(b"other")
    assert weights_digest(str(folder), None, {"gguf_file": "q4.gguf"}) == four
    (folder / "q4.gguf").write_bytes(b"other")
    assert weights_digest(str(folder), None, {"gguf_file": "q4.gguf"}) != four


def test_a_subfolder_has_weights_of_its_own(folder):
    (folder / "inner").mkdir()
    (folder / "inner" / "model.safetensors").write_bytes(b"inner")
    own = weights_digest(str(folder / "inner"), None)

    assert weights_digest(str(folder), None, {"subfolder": "inner"}) == own


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.gguf"])
def test_weights_of_other_formats_count_where_there_are_no_safetensors(tmp_path, name):
    (tmp_path / name).write_bytes(b"weights")
    before = digest_on_disk(str(tmp_path))
    (tmp_path / name).write_bytes(b"others")

    assert before is not None
    assert before.startswith("sha256:")
    assert EMPTY not in before
    assert digest_on_disk(str(tmp_path)) != before


def test_bin_files_count_beside_safetensors_only_where_they_are_read(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"safe")
    alone = digest_on_disk(str(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickled")

    assert weights_digest(str(tmp_path), None) == alone
    assert weights_digest(str(tmp_path), None, {"use_safetensors": False}) != alone


def test_shards_that_only_an_index_names_count(tmp_path):
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.safetensors").write_bytes(b"first")
    index = {"weight_map": {"x": "parts/a.safetensors", "y": "parts/gone.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    before = digest_on_disk(str(tmp_path))
    (tmp_path / "parts" / "a.safetensors").write_bytes(b"second")

    assert before is not None
    assert digest_on_disk(str(tmp_path)) != before


def test_no_folder_has_the_digest_of_nothing(tmp_path):
    assert digest_on_disk(str(tmp_path)) is None
    of_tensors = weights_digest(str(tmp_path), llama(5))
    assert of_tensors is not None
    assert of_tensors.startswith("tensors:")
    assert of_tensors != weights_digest(str(tmp_path), llama(6))


class Quantization:
    def to_dict(self):
        return {"bits": 4, "dtype": object}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {}),
        ({"device": "cpu", "dtype": "auto", "revision": "main", "load_in_4bit": False}, {}),
        ({"gguf_file": "q4.gguf"}, {"gguf_file": "q4.gguf"}),
        ({"load_in_8bit": True}, {"load_in_8bit": True}),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
         {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}),
        ({"quantization_config": Quantization()},
         {"quantization_config": {"bits": 4, "dtype": "<class 'object'>"}}),
        ({"use_safetensors": True}, {}),
        ({"use_safetensors": False}, {"use_safetensors": False}),
        ({"revision": "v2", "subfolder": "a"}, {"revision": "v2", "subfolder": "a"}),
    ],
)  # fmt: skip
def test_what_decides_the_weights_is_a_setting(given, expected):
    assert loading_settings(given) == expected
