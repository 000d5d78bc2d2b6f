"""Models in other forms than a folder of fp32 safetensors: the texts are the target's own."""

import copy
import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from lm_eval_specfair.conformance.tiny_models import VOCAB_SIZE, byte_tokenizer, disturbed, llama
from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.training import model_setup

from support.decoding_runs import transformers_greedy
from support.evaluations import answers, generation, records_of, run_of, save_pair, specfair
from support.recurrent_families import recurrent

# The library's own, from within transformers.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

TEXTS = [f"{'A long story about a fox. ' * n}Number {n}." for n in range(4)]


def asked():
    return [generation(text, n, until=[], max_gen_toks=12) for n, text in enumerate(TEXTS)]


def expected(model) -> list[str]:
    tokenizer = byte_tokenizer()
    end = tokenizer.eos_token_id
    return [
        tokenizer.decode(
            transformers_greedy(model, tokenizer.encode(text), 12, end), skip_special_tokens=True
        )
        for text in TEXTS
    ]


def num_accepted(folder) -> int:
    return sum(sum(record.accepted_per_step) for record in records_of(folder).values())


# ------------------------------------------------------------------ GGUF


def write_gguf(*arguments) -> None:
    """A Llama as llama.cpp keeps it, its matrices of this kind of numbers."""
    pytest.importorskip("gguf")
    path = Path(__file__).parents[2] / "experiments" / "serving" / "write_gguf.py"
    spec = importlib.util.spec_from_file_location("write_gguf", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.write_gguf(*arguments)


@pytest.mark.parametrize("kind", ["F32", "Q8_0"])
def test_gguf_targets_and_drafters_are_dequantised(tmp_path, kind):
    target = llama(0, hidden_size=64, intermediate_size=64, head_dim=32, num_attention_heads=2)
    folder = save_pair(tmp_path / "pair", target, disturbed(target, 0.01))
    for role, model in (("target", target), ("drafter", disturbed(target, 0.01))):
        (folder / role / "model.safetensors").unlink()
        write_gguf(model, folder / role / "model.gguf", kind)
    given = {"gguf_file": "model.gguf", "tokenizer": str(folder / "target")}
    run = tmp_path / "run"
    got = answers(specfair(folder, run, drafter_gguf_file="model.gguf", **given), asked())

    loaded = AutoModelForCausalLM.from_pretrained(
        folder / "target", gguf_file="model.gguf", dtype=torch.float32
    ).eval()
    if kind == "F32":
        weights, own = loaded.state_dict(), target.state_dict()
        assert all(torch.equal(weights[name], own[name]) for name in own)
    assert got == expected(loaded)
    assert num_accepted(run) > 5
    settings = run_of(run)["settings"]
    assert settings["target_loading"]["gguf_file"] == "model.gguf"
    assert settings["drafter_loading"]["gguf_file"] == "model.gguf"
    assert settings["target_weights"] != settings["drafter_weights"]


# ------------------------------------------------------------------ adapters


def save_adapter(folder, base, seed: int):
    """A LoRA adapter of a model with random weights; and the model with it."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(seed)
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(copy.deepcopy(base), config).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    adapted.save_pretrained(folder)
    return adapted


def test_adapters_on_target_and_drafter(tmp_path):
    base = llama(0)
    folder = save_pair(tmp_path / "pair", base, disturbed(base, 0.01))
    adapted = save_adapter(tmp_path / "adapter", base, 1)
    save_adapter(tmp_path / "of drafter", disturbed(base, 0.01), 2)
    right = expected(adapted)
    assert right != expected(base)
    accepted = {}
    for name, adapter in (("with", str(tmp_path / "of drafter")), ("without", None)):
        more = {"drafter_peft": adapter} if adapter else {}
        run = tmp_path / name
        got = answers(specfair(folder, run, peft=str(tmp_path / "adapter"), **more), asked())
        assert got == right
        accepted[name] = num_accepted(run)
    assert accepted["with"] != accepted["without"]
    settings = run_of(tmp_path / "with")["settings"]
    assert settings["target_loading"]["peft_weights"].startswith("sha256:")
    assert settings["drafter_loading"]["peft_weights"].startswith("sha256:")
    assert settings["target_loading"]["peft_weights"] != settings["drafter_loading"]["peft_weights"]


def test_an_adapter_that_is_a_learned_prompt_is_refused():
    peft = pytest.importorskip("peft")
    config = peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    with pytest.raises(ConfigError, match="learned prompt"):
        CausalModel(peft.get_peft_model(llama(0), config).eval())


def test_an_adapter_that_is_not_there_is_one_line(tmp_path):
    pytest.importorskip("peft")
    folder = save_pair(tmp_path / "pair", llama(0), llama(1))
    for name in ("peft", "drafter_peft"):
        with pytest.raises(ConfigError, match="nowhere") as error:
            specfair(folder, None, **{name: str(tmp_path / "nowhere")})
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------ quantised


@pytest.mark.slow  # torchao takes five seconds to import
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("kind", ["llama", "lfm2", "mamba2", "qwen3_5_moe_text"])
def test_torchao_models_decode_as_generate_does(tmp_path, kind, bits):
    pytest.importorskip("torchao")
    base = llama(0) if kind == "llama" else recurrent(kind, vocab_size=VOCAB_SIZE)
    folder = save_pair(tmp_path / "pair", base, disturbed(base, 0.01))
    quantized = model_setup.loading_arguments(f"int{bits}", None)
    target, drafter = (
        AutoModelForCausalLM.from_pretrained(folder / role, **quantized).eval()
        for role in ("target", "drafter")
    )
    right = expected(target)
    run = tmp_path / "run"
    tokenizer = str(folder / "target")
    model = SpecFairLM(
        target, drafter=drafter, tokenizer=tokenizer, device="cpu", baseline=0, records_dir=str(run)
    )
    assert answers(model, asked()) == right
    assert num_accepted(run) > 0
    # As arguments of a run: the target is quantised as it is loaded.
    assert answers(specfair(folder, tmp_path / "again", **quantized), asked()) == right


BITSANDBYTES = {
    "nf4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "int8": {"load_in_8bit": True, "llm_int8_threshold": 0.0},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:MatMul8bitLt", "ignore:You passed `quantization_config`")
@pytest.mark.parametrize("kind", BITSANDBYTES)
def test_bitsandbytes_models_decode_as_generate_does(tmp_path, kind):
    pytest.importorskip("bitsandbytes")
    # Each layer has a multiple of 32 outputs, as 4 bits need on processors with AVX-512 BF16.
    shape = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
    base = llama(0, hidden_size=64, intermediate_size=128, **shape)
    folder = save_pair(tmp_path / "pair", base, disturbed(base, 0.01))
    settings = BitsAndBytesConfig(**BITSANDBYTES[kind])
    target = AutoModelForCausalLM.from_pretrained(
        folder / "target", quantization_config=settings, device_map="cpu"
    ).eval()
    # Saved before its first pass, which on such a processor rounds the scales for good.
    target.save_pretrained(tmp_path / "quantized")
    right = expected(target)
    assert right != expected(base)
    # As arguments of a run; then saved so, with a drafter that is quantised in its folder.
    run = tmp_path / "run"
    assert answers(specfair(folder, run, **BITSANDBYTES[kind]), asked()) == right
    assert num_accepted(run) > 0
    loading = run_of(run)["settings"]["target_loading"]
    assert loading == BITSANDBYTES[kind]
    saved = tmp_path / "saved"
    for role in ("target", "drafter"):
        shutil.copytree(folder / role, saved / role)
        shutil.copytree(tmp_path / "quantized", saved / role, dirs_exist_ok=True)
    assert answers(specfair(saved, tmp_path / "again"), asked()) == right
    (counts,) = {num_accepted(tmp_path / "again")}
    assert counts > num_accepted(run)  # it drafts for itself


@pytest.mark.slow
def test_outliers_of_a_bitsandbytes_pass_are_refused(tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = save_pair(tmp_path / "pair", llama(0), llama(1))
    with pytest.raises(ConfigError, match="llm_int8_threshold=0"):
        specfair(folder, None, load_in_8bit=True)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"bnb_4bit_quant_type": "nf4"}, "add load_in_4bit=True"),
        ({"load_in_4bit": True, "quantization_config": {"bits": 4}}, "leave one of them out"),
        ({"load_in_4bit": "yes"}, "load_in_4bit must be"),
        ({"quantization_config": {"bits": 4}}, "quantization_config must be"),
    ],
)
def test_settings_of_a_quantisation_that_make_no_sense(tmp_path, given, said):
    folder = save_pair(tmp_path / "pair", llama(0), llama(1))
    with pytest.raises(ConfigError, match=said) as error:
        specfair(folder, None, **given)
    assert "\n" not in str(error.value)


# ------------------------------------------------------------------ tied heads, devices


def test_tied_heads_and_a_map_of_devices(tmp_path):
    base = llama(0, tie_word_embeddings=True)
    folder = save_pair(tmp_path / "pair", base, disturbed(base, 0.01))
    assert "tie_word_embeddings" in json.loads((folder / "target" / "config.json").read_text())
    got = answers(specfair(folder, tmp_path / "run", device_map="cpu"), asked())
    assert got == expected(base)
    assert num_accepted(tmp_path / "run") > 5
