"""Writes the table of model families in docs/support.md from what was tried.

python tools/support_table.py                 the page, from docs/support_families.json
python tools/support_table.py --try           tries all families first: a quarter of an hour
python tools/support_table.py --log FILE ...  takes the outcomes of finished `pytest -rA` runs
"""

import argparse
import json
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE, OUTCOMES = ROOT / "docs" / "support.md", ROOT / "docs" / "support_families.json"
BEGIN, END = "<!-- Written by tools/support_table.py -->", "<!-- Up to here -->"
# What the tests of these names find out about the family in brackets.
FINDS = {
    "decoding/test_families.py::test_greedy_texts_are_those_of_generate": ("target",),
    "decoding/test_families.py::test_a_drafter_proposes_its_own_greedy_continuation": ("drafter",),
    "replays/test_families_in_one_pass.py::test_scores_are_those_of_each_text_alone": ("replay",),
    "replays/test_families_in_one_pass.py::test_models_with_states_too": ("replay",),
    "decoding/test_recurrent.py::test_greedy_texts_are_those_of_generate": ("target", "drafter"),
}
SIGNS = {
    "passed": "yes",
    "failed": "**wrong**",
    "refused": "refused",
    "differs": "differs",
    None: "not tried",
}
# The test of replaying leaves these out, or shows that they are refused.
OTHERWISE = {
    "zamba2": "differs",
    "nemotron_h": "differs",
    "deepseek_v4": "differs",
    "llama_longrope": "refused",
}


def run_tests() -> str:
    """What the families' tests print, in a process of their own."""
    files = sorted({name.partition("::")[0] for name in FINDS})
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "--tb=no", "-p", "no:cacheprovider"]
    command += ["-m", "slow or not slow", *(f"tests/{file}" for file in files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout


def outcomes_in(printed: str) -> dict[str, Any]:
    """Each family's outcomes by what was tried, with the versions that are installed."""
    families: dict[str, dict[str, str]] = {}
    for outcome, name, family in re.findall(
        r"^(PASSED|FAILED) tests/(\S+?)\[([\w-]+)\]", printed, re.MULTILINE
    ):
        for what in FINDS.get(name, ()):
            families.setdefault(family, {})[what] = outcome.lower()
    versions = {package: version(package) for package in ("transformers", "torch")}
    return {"versions": versions, "families": families}


def described(outcomes: dict[str, Any]) -> dict[str, Any]:
    """The same with each family's `model_type`, class and kinds of layers."""
    sys.path.insert(0, str(ROOT / "tests"))
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    from lm_eval_specfair.conformance.tiny_families import FAMILIES, configuration

    from support.recurrent_families import recurrent

    in_vllm = set((ROOT / "tools" / "vllm_classes.txt").read_text(encoding="utf-8").split())
    for name, found in outcomes["families"].items():
        config = configuration(name) if name in FAMILIES else recurrent(name).config
        kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
        found["model_type"] = config.model_type
        found["layers"] = _layers(config) if name in FAMILIES else "with states"
        found["vllm"] = "known" if kind is not None and kind.__name__ in in_vllm else "not known"
        found |= {"replay": OTHERWISE[name]} if name in OTHERWISE else {}
    return outcomes


def _layers(config: Any) -> str:
    from lm_eval_specfair.decoding.cache import layer_kinds
    from lm_eval_specfair.decoding.families.longrope import longrope_border
    from lm_eval_specfair.decoding.families.refusals import has_alibi

    kinds = set(layer_kinds(config))
    named = " ".join(getattr(config, "layer_types", None) or ())
    local = "local" in (getattr(config, "attention_layers", None) or ())
    parts = [
        (
            "DynamicSlidingWindowLayer" in kinds or local,
            "chunks" if "chunked" in named else "windows",
        ),
        (("DynamicLayer" in kinds and not local) or "global" in str(vars(config)), "full"),
        ("DummyLayer" in kinds, "shared keys and values"),
        (bool({"DynamicIndexedLayer", "MiniMaxM3VLSparseCacheLayer"} & kinds), "sparse indexer"),
        (has_alibi(config), "ALiBi"),
        (longrope_border(config) is not None, "longrope"),
        (bool(getattr(config, "kv_lora_rank", None)), "latent"),
        (config.model_type == "gpt_oss", "sinks"),
    ]
    return ", ".join(name for holds, name in parts if holds)


def table(outcomes: dict[str, Any]) -> str:
    """The part of the page that lies between the two marks."""
    families = outcomes["families"]
    versions = ", ".join(f"{name} {number}" for name, number in outcomes["versions"].items())
    right = sum(found.get("target") == "passed" for found in families.values())
    lines = [
        f"{len(families)} configurations were tried with {versions}; {right} of them decode right "
        "as target.",
        "",
        "| configuration | `model_type` | layers | target | drafter | replay | class in vLLM |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, found in sorted(families.items()):
        cells = [SIGNS[found.get(what)] for what in ("target", "drafter", "replay")]
        row = [name, f"`{found['model_type']}`", found["layers"], *cells, found["vllm"]]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def page(outcomes: dict[str, Any]) -> str:
    """docs/support.md with the table renewed."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}\n\n{table(outcomes)}\n\n{END}{rest.split(END)[1]}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--try", action="store_true", dest="tries", help="try all families first")
    parser.add_argument("--log", nargs="+", type=Path, help="what `pytest -rA` printed")
    arguments = parser.parse_args()
    printed = run_tests() if arguments.tries else ""
    printed += "\n".join(path.read_text(encoding="utf-8") for path in arguments.log or ())
    if printed:
        text = json.dumps(described(outcomes_in(printed)), indent=1, sort_keys=True)
        OUTCOMES.write_text(text + "\n", encoding="utf-8")
        print(f"wrote {OUTCOMES.relative_to(ROOT)}")
    PAGE.write_text(page(json.loads(OUTCOMES.read_bytes())), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
