"""Scripts are where the commands that name them look for them."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"(?<![\w/])(?:experiments|benchmarks|tools)/[\w/]+\.(?:py|sh)")


def files_with_commands():
    yield ROOT / "Makefile"
    for pattern in ("*.md", "docs/**/*.md", "results/**/*.md", "lm_eval_specfair/**/*.md"):
        yield from (path for path in ROOT.glob(pattern) if "runs" not in path.parts)
    for folder in ("experiments", "benchmarks", "tools", "task_configs", ".ci"):
        yield from (path for path in (ROOT / folder).rglob("*") if path.is_file())


def test_every_script_that_a_file_names_exists():
    named = {}
    for path in files_with_commands():
        for script in COMMAND.findall(path.read_text(encoding="utf-8", errors="ignore")):
            named.setdefault(script, path.relative_to(ROOT))
    assert len(named) > 20
    assert not {script: path for script, path in named.items() if not (ROOT / script).exists()}


def scripts():
    for folder in ("experiments", "benchmarks", "tools"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "argparse" in path.read_text(encoding="utf-8"):
                yield pytest.param(path, id=str(path.relative_to(ROOT)))


@pytest.mark.parametrize("path", [*scripts()])
def test_a_scripts_docstring_says_in_one_line_what_it_does_and_how_it_is_run(path):
    text = path.read_text(encoding="utf-8")
    first, _, rest = text.removeprefix('"""').partition("\n")
    folder = path.relative_to(ROOT).parent if path.name == "__main__.py" else path.relative_to(ROOT)
    if "ArgumentParser(" in text:
        assert first.endswith((".", ":")) or ":" in first
        assert f"python {folder}" in rest.split('"""')[0]
