"""The pages of metrics, of the command line and of supported models say what the code says."""

import pkgutil
import re
import sys

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lm_eval_specfair.decoding.models import CausalModel
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.metrics.definitions.bounds import BOUNDS
from lm_eval_specfair.metrics.definitions.registry import METRICS
from lm_eval_specfair.metrics.definitions.speedup import COSTS
from lm_eval_specfair.metrics.percentiles import PERCENTILES

from support.architectures import TAKEN
from support.markdown import ROOT

DOCS = ROOT / "docs"
METRICS_PAGE = (DOCS / "metrics.md").read_text(encoding="utf-8")
ASPECTS = ("Formula", "Unit, range", "Elsewhere", "Misleads")


def section(page: str, title: str) -> str:
    """What follows a heading, up to the next of its level or above."""
    level, _, _ = title.partition(" ")
    end = rf"^#{{1,{len(level)}}} "
    return re.split(end, page.split(f"\n{title}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]


def names(text: str) -> set[str]:
    return set(re.findall(r"`([\w-]+)`", text))


def test_every_metric_has_its_place_and_nothing_else_does():
    headings = re.findall(r"^### (.+)$", METRICS_PAGE, re.MULTILINE)
    told = set().union(*map(names, headings))
    positions = {name for name in told if re.fullmatch(r"(conditional_)?acceptance_at_\d+", name)}

    assert told - positions == {metric.name for metric in (*METRICS, *COSTS, *PERCENTILES)}
    assert len(positions) == 5
    bounds = re.findall(r"^\| (`.+?) \|", section(METRICS_PAGE, "## Bounds"), re.MULTILINE)
    assert set().union(*map(names, bounds)) == {metric.name for metric in BOUNDS}


def test_every_metric_says_formula_unit_other_names_and_when_it_misleads():
    for heading in re.findall(r"^### .+$", METRICS_PAGE, re.MULTILINE):
        told = re.findall(r"^- \*\*(.+?)\*\*: \S", section(METRICS_PAGE, heading), re.MULTILINE)
        assert tuple(told) == ASPECTS, heading


def test_functions_and_tests_of_the_formulas_exist():
    table = section(METRICS_PAGE, "## Formulas, functions and tests")
    for path in re.findall(r"`((?:tests|experiments)/[\w/.]+)`", table):
        assert (ROOT / path).is_file(), path
    for name in re.findall(r"`([a-z_]+(?:\.[a-z_]+)+)`", table):
        assert pkgutil.resolve_name(f"lm_eval_specfair.{name}")


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="argparse words defaults by version")
def test_the_page_of_the_command_line_is_up_to_date(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tools" / "docs")
    import cli_page

    assert cli_page.PAGE.read_text(encoding="utf-8") == cli_page.page(), (
        "run: python tools/docs/cli_page.py"
    )


SUPPORT = (DOCS / "support.md").read_text(encoding="utf-8")
TINY = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "head_dim": 4,
    "num_key_value_heads": 4,
}
EXPERTS = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 48,
}
ONE_GROUP = {"n_group": 1, "topk_group": 1}
# What a family needs besides a small size: no windows, its own names.
SHAPES = {
    "mistral": {"sliding_window": None},
    "exaone4": {"sliding_window": None, "layer_types": ["full_attention"] * 2},
    "deepseek_v2": LATENT | EXPERTS,
    "deepseek_v3": LATENT | EXPERTS | ONE_GROUP,
    "minicpm3": LATENT,
    "gptj": {"rotary_dim": 4},
    "codegen": {"rotary_dim": 4},
    "dots1": EXPERTS | ONE_GROUP,
    "falcon": {"head_dim": None},
}


def tiny(kind: str):
    torch.manual_seed(0)
    shape = TINY | {"head_dim": 8} | SHAPES.get(kind, {})
    config = AutoConfig.for_model(
        kind, **{key: shape[key] for key in shape if (key, shape[key]) != ("head_dim", None)}
    )
    return AutoModelForCausalLM.from_config(config).eval()


TAKEN_BY_PAGE = names(section(SUPPORT, "### Taken")) - {"model_type"}


def test_families_whose_scores_are_tested_are_listed():
    assert set(TAKEN) <= TAKEN_BY_PAGE


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(TAKEN_BY_PAGE))
def test_families_that_the_page_calls_taken_pass_the_trial(kind):
    assert CausalModel(tiny(kind), role="target")


# With a window, longrope or a hybrid's layers, which take a configuration of their own.
BY_DEFAULT = sorted(
    names(section(SUPPORT, "### Refused"))
    - TAKEN_BY_PAGE
    - {"model_type", "position_ids", "t5gemma", "lfm2"}
)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BY_DEFAULT)
def test_families_that_the_page_calls_refused_are_refused(kind):
    with pytest.raises(ConfigError):
        CausalModel(tiny(kind), role="target")
