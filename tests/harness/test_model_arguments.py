"""What `--model_args` may hold: the contract's defaults, and one clear line for all the rest."""

import pytest
import torch

from lm_eval_specfair.decoding.loading import EMBEDDED_DRAFTER, EMBEDDED_TARGET
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.model import SpecFairLM
from lm_eval_specfair.harness.model_arguments import Arguments


def read(**given) -> Arguments:
    return Arguments.read("target", {"drafter": "drafter"} | given)


def refusal(**given) -> str:
    with pytest.raises(ConfigError) as caught:
        read(**given)
    message = str(caught.value)
    assert message
    assert "\n" not in message
    return message


def test_the_defaults_are_the_contracts():
    arguments = read()

    assert (arguments.target, arguments.drafter) == ("target", "drafter")
    assert arguments.policy.default == 4
    assert arguments.baseline == 8
    assert arguments.records_dir is None
    assert arguments.resume is False
    assert arguments.seed == 0
    assert arguments.for_hf == {}
    assert arguments.settings()["backend"] == "hf"


@pytest.mark.parametrize("pretrained", [None, "", "embedded", str(EMBEDDED_TARGET)])
def test_the_embedded_target_brings_its_drafter(pretrained):
    arguments = Arguments.read(pretrained, {})

    assert arguments.target == str(EMBEDDED_TARGET)
    assert arguments.drafter == str(EMBEDDED_DRAFTER)


def test_the_embedded_target_takes_another_drafter():
    assert Arguments.read(None, {"drafter": "prompt_lookup"}).drafter == "prompt_lookup"


def test_another_target_needs_a_drafter():
    with pytest.raises(ConfigError, match="a drafter is required") as caught:
        Arguments.read("target", {})

    assert "drafter=none" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_hf_takes_is_handed_on_and_ours_is_not():
    theirs = {"dtype": "float32", "batch_size": "auto", "attn_implementation": "eager"}

    arguments = read(**theirs, num_speculative_tokens=2, baseline="all", seed=3, backend="hf")

    assert arguments.for_hf == theirs
    assert arguments.settings() == {
        "backend": "hf",
        "num_speculative_tokens": 2,
        "baseline": "all",
        "seed": 3,
    }


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("num_speculative_token", "num_speculative_tokens"),
        ("draftr", "drafter"),
        ("record_dir", "records_dir"),
        ("dtyp", "dtype"),
    ],
)
def test_a_misspelt_argument_is_refused_with_a_suggestion(name, suggestion):
    message = refusal(**{name: 1})

    assert repr(name) in message
    assert f"did you mean {suggestion}?" in message


def test_an_argument_like_no_other_is_refused_with_the_list_of_ours():
    message = refusal(xyzzy=1)

    assert "'xyzzy'" in message
    assert "num_speculative_tokens" in message


@pytest.mark.parametrize("value", [0, -1, "0", "-1", "x", "", True, 2.5, None])
def test_a_draft_length_below_one_or_of_another_type_is_refused(value):
    assert "num_speculative_tokens" in refusal(num_speculative_tokens=value)


@pytest.mark.parametrize("value", [-1, "-1", "x", 1.5, True, None])
def test_a_seed_must_be_a_whole_number(value):
    assert "seed" in refusal(seed=value)


@pytest.mark.parametrize("value", [-1, "-1", "some", 1.5, True, None])
def test_a_baseline_must_be_a_whole_number_or_all(value):
    assert "baseline" in refusal(baseline=value)


@pytest.mark.parametrize(("value", "meant"), [("all", "all"), (0, 0), ("0", 0), ("12", 12)])
def test_a_baseline_is_a_number_or_all(value, meant):
    assert read(baseline=value).baseline == meant


@pytest.mark.parametrize("value", ["VLLM", "HF", "", None, True])
def test_only_the_backend_of_this_version_is_taken(value):
    assert "backend must be hf" in refusal(backend=value)


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        *((word, True) for word in (True, "true", "True", "TRUE", 1, "1")),
        *((word, False) for word in (False, "false", "False", 0, "0")),
    ],
)
def test_resume_is_read_from_words(value, meant):
    assert read(resume=value).resume is meant


@pytest.mark.parametrize("value", ["yes", "", None, 2, "resume"])
def test_resume_refuses_other_words(value):
    assert "resume must be true or false" in refusal(resume=value)


@pytest.mark.parametrize("value", [3, 1.0, True, ["drafter"]])
def test_a_drafter_must_be_named_or_loaded(value):
    assert "drafter must be" in refusal(drafter=value)


@pytest.mark.parametrize("device", ["cpu", "cuda:0", None])
def test_the_device_that_lm_eval_names_unasked_is_taken_on_any_machine(device):
    read(device=device)


def test_numbers_may_come_as_text():
    # lm-eval reads model arguments of a configuration file as they are written there.
    arguments = read(num_speculative_tokens="3", seed="7")

    assert (arguments.policy.default, arguments.seed) == (3, 7)


def test_without_a_gpu_the_device_is_the_cpu_from_python_too(pair_folder, tmp_path):
    """lm-eval's default, cuda, ended in torch's own error."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    for number, given in enumerate(({}, {"device": None}, {"device": "cuda:0"})):
        model = SpecFairLM(
            str(pair_folder / "target"),
            drafter="prompt_lookup",
            records_dir=str(tmp_path / str(number)),
            **given,
        )
        assert model.device.type == "cpu"


def test_how_the_target_is_loaded_is_a_setting(tmp_path):
    plain = Arguments.read("target", {"drafter": "none"})
    of_file = Arguments.read("target", {"drafter": "none", "gguf_file": "q4.gguf"})

    assert plain.loading_settings() == {}
    assert of_file.loading_settings() == {"target_loading": {"gguf_file": "q4.gguf"}}


@pytest.mark.parametrize("value", [0, 1, -5, "long", 1.5, True])
def test_a_longest_text_that_holds_nothing_is_refused(value):
    assert "max_length must be" in refusal(max_length=value)


def test_draft_lengths_have_a_range():
    assert "in 1 ... 256, got 100000" in refusal(num_speculative_tokens=100_000)
