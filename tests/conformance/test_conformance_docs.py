"""The published table says what the tests show."""

import importlib.util
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "conformance_docs.py"


def test_the_page_of_bug_classes_is_up_to_date():
    spec = importlib.util.spec_from_file_location("conformance_docs", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page(), (
        "run: python tools/conformance_docs.py"
    )
    assert all(f"\n| {number} |" in module.page() for number in range(1, 26))
