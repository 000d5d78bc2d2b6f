"""Pairs that can't be decoded: a drafter with other tokens, a folder without a model."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from lm_eval_specfair.conformance.tiny_models import byte_tokenizer, llama
from lm_eval_specfair.decoding import loading
from lm_eval_specfair.errors import ConfigError

from support.evaluations import save_pair, specfair
from support.vocabularies import wordpiece


def changed(**parts):
    """The target's tokenizer with another normaliser, pre-tokeniser or model; equal tokens."""
    tokenizer = byte_tokenizer()
    for name, part in parts.items():
        setattr(tokenizer.backend_tokenizer, name, part)
    return tokenizer


def with_merges():
    tokenizer = byte_tokenizer()
    vocabulary = tokenizer.get_vocab()
    inner: Tokenizer = tokenizer.backend_tokenizer
    inner.model = models.BPE(vocabulary, merges=[("Ġ", "a")])
    return tokenizer


OTHER_TOKENIZERS = {
    "fewer tokens": (lambda: byte_tokenizer(["Ġa"]), "has another tokenizer: 258 tokens"),
    "permuted": (lambda: byte_tokenizer(["Ġb", "Ġa", "Ġc"]), "of which 258 are the target's 260"),
    "other merges": (with_merges, "splits text otherwise"),
    "lower case": (lambda: changed(normalizer=normalizers.Lowercase()), "splits text otherwise"),
    "space in front": (
        lambda: changed(
            pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
        ),
        "splits text otherwise",
    ),
}


@pytest.mark.parametrize("how", OTHER_TOKENIZERS)
def test_a_drafter_with_another_tokenizer_is_never_taken_for_one_with_the_targets(how, tmp_path):
    make, difference = OTHER_TOKENIZERS[how]
    make().save_pretrained(tmp_path)

    assert difference in loading.tokenizer_difference(byte_tokenizer(), make())
    with pytest.raises(ConfigError) as caught:  # what cannot translate, such as training
        loading.check_same_tokenizer(byte_tokenizer(), str(tmp_path))

    message = str(caught.value)
    assert difference in message
    assert "drafter=prompt_lookup" in message
    assert "\n" not in message


@pytest.mark.parametrize("how", OTHER_TOKENIZERS)
def test_a_run_translates_between_the_tokens_and_says_so(how, target, tmp_path, caplog):
    tokenizer = OTHER_TOKENIZERS[how][0]()
    pair = save_pair(
        tmp_path / "pair", target, llama(2, vocab_size=len(tokenizer)), (None, tokenizer)
    )

    specfair(pair, tmp_path / "run")

    assert f"it drafts through the shared tokens ({len(tokenizer)} are shared," in caplog.text


def test_a_drafter_whose_tokens_do_not_spell_texts_is_refused(target, tmp_path):
    tokenizer = wordpiece(["the old mill and the river"], 60)
    drafter = llama(2, vocab_size=len(tokenizer))
    pair = save_pair(tmp_path / "pair", target, drafter, (None, tokenizer))

    with pytest.raises(ConfigError) as caught:
        specfair(pair, tmp_path / "run")

    message = str(caught.value)
    assert "do not spell texts byte for byte" in message
    assert "drafter=prompt_lookup" in message
    assert "\n" not in message
    assert not (tmp_path / "run").exists()


def test_a_drafter_with_the_same_tokenizer_and_padded_vocabulary_is_taken(target, tmp_path):
    pair = save_pair(tmp_path / "pair", target, llama(2, vocab_size=320))

    specfair(pair, tmp_path / "run")


def test_a_drafter_without_a_tokenizer_is_refused(target, tmp_path):
    pair = save_pair(tmp_path / "pair", target, llama(2))
    for path in (pair / "drafter").glob("token*"):
        path.unlink()

    with pytest.raises(ConfigError, match="has no tokenizer that could be compared"):
        specfair(pair, tmp_path / "run")


@pytest.mark.parametrize("role", ["target", "drafter"])
@pytest.mark.parametrize("kind", ["missing", "empty", "a file", "no weights"])
def test_a_folder_without_a_model_is_refused_in_one_line(pair_folder, tmp_path, role, kind):
    pair = tmp_path / "pair"
    pair.mkdir()
    for name in ("target", "drafter"):
        (pair / name).symlink_to(pair_folder / name)
    broken = pair / role
    broken.unlink()
    if kind == "empty":
        broken.mkdir()
    elif kind == "a file":
        broken.write_text("not a model")
    elif kind == "no weights":
        broken.mkdir()
        for path in (pair_folder / role).glob("*.json"):
            (broken / path.name).symlink_to(path)

    with pytest.raises(ConfigError) as caught:
        specfair(pair, tmp_path / "run")

    assert str(broken) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_pickled_weights_are_refused(target, tmp_path):
    pair = save_pair(tmp_path / "pair", target, target)
    (pair / "drafter" / "model.safetensors").unlink()
    torch.save(target.state_dict(), pair / "drafter" / "pytorch_model.bin")

    with pytest.raises(ConfigError, match="cannot load drafter"):
        specfair(pair, tmp_path / "run")
