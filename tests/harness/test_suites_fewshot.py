"""No prompt shows the answer of its own document, or another question about its paragraph.

python -m pytest tests/harness/test_suites_fewshot.py
"""

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.samplers import ContextSampler, FirstNSampler
from lm_eval.tasks import TaskManager

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.harness.paths import task_configs_dir
from lm_eval_specfair.harness.suites.fewshot import ApartSampler, traits
from lm_eval_specfair.harness.suites.suite_sources import SOURCES

from support import suite_rows

ROWS = 12
# One task of each suite, and of each way of naming (or not naming) the examples' split.
NAMES = [
    *("xnli_multi_ar", "xnli_multi_cot_en", "mgsm_multi_ja", "xquad_multi_de", "mlqa_multi_zh"),
    *("tydiqa_multi_ko", "belebele_multi_khm_Khmr", "global_mmlu_multi_yo", "xlsum_multi_persian"),
    *("flores_multi_eng_Latn_tha_Thai", "flores_multi_spa_Latn_eng_Latn", "afrixnli_multi_eng"),
    *("afrixnli_multi_cot_eng", "afrimgsm_multi_fra", "specfair_core_belebele_am"),
    *("specfair_core_xlsum_ru", "specfair_core_flores_ja"),
]


def load(name: str, folder):
    manager = TaskManager(
        include_path=str(task_configs_dir()),
        include_defaults=False,
        metadata={"data_dir": str(folder)},
    )
    return manager.load([name])["tasks"][name]


def apart(sampler: ContextSampler) -> ApartSampler:
    return ApartSampler(sampler, lambda row: traits(row, str(row), ["context"]), "toy")


@pytest.mark.parametrize("name", NAMES)
def test_an_example_shares_no_paragraph_with_the_document(name, tmp_path):
    suite_rows.write_mirror(tmp_path, name, count=ROWS)
    for path in list(tmp_path.rglob("*.parquet")):  # at worst the examples are the test rows
        for split in ("train", "validation", "dev"):
            if not path.with_name(f"{split}.parquet").exists():
                path.with_name(f"{split}.parquet").write_bytes(path.read_bytes())
    task = load(name, tmp_path)
    for seed, shots in enumerate((1, 2, 5, ROWS - 2)):
        task.set_fewshot_seed(seed)
        for doc in task.eval_docs:
            prompt = task.fewshot_context(doc, shots)
            own = task.doc_to_text(doc)
            examples = prompt.removesuffix(own)
            assert prompt.endswith(own)
            assert own not in examples
            for column in SOURCES[task.config.dataset_path].shared:
                assert f"{doc[column]}\n" not in examples, column
                assert f"{doc[column]} " not in examples, column
            assert examples.count(task.config.fewshot_delimiter) >= shots


def test_examples_differ_between_documents_and_are_the_same_for_the_same_seed(tmp_path):
    suite_rows.write_mirror(tmp_path, "xquad_multi_en", count=ROWS)
    task = load("xquad_multi_en", tmp_path)

    def prompts(seed: int) -> list[str]:
        task.set_fewshot_seed(seed)
        return [task.fewshot_context(doc, 2) for doc in task.eval_docs]

    assert prompts(1) == prompts(1) != prompts(2)


def test_more_examples_than_there_are_paragraphs_are_refused_in_one_line(tmp_path):
    suite_rows.write_mirror(tmp_path, "xquad_multi_en", count=ROWS)
    task = load("xquad_multi_en", tmp_path)

    with pytest.raises(ConfigError, match=r"num_fewshot is 11, but only 10 of the 12 rows") as said:
        task.fewshot_context(task.eval_docs[0], ROWS - 1)
    assert "\n" not in str(said.value)


def test_examples_with_a_reason_have_the_shape_that_is_scored(tmp_path):
    for name in ("xnli_multi_cot_zh", "afrixnli_multi_cot_amh"):
        suite_rows.write_mirror(tmp_path, name, count=ROWS)
        for path in list(tmp_path.rglob("test.parquet")):
            path.with_name("validation.parquet").write_bytes(path.read_bytes())
        task = load(name, tmp_path)
        examples = [{**task.eval_docs[0], "label": label} for label in range(3)]
        for example in examples:
            text = task.doc_to_target(example, task.fewshot_cfg.doc_to_target)
            assert task.process_results(example, [text])["acc"] == 1


def test_the_demo_suite_shows_no_document_its_own_reference():
    task = load("specfair_demo_en", "")
    for doc in task.eval_docs:
        for shots in (1, len(task.eval_docs) - 1):
            prompt = task.fewshot_context(doc, shots)
            assert doc["reference"] not in prompt
            assert prompt.count(doc["prompt"]) == 1
    with pytest.raises(ConfigError, match="besides the one that is asked"):
        task.fewshot_context(doc, len(task.eval_docs))


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(1, 12),
    st.sampled_from([ContextSampler, FirstNSampler]),
    st.data(),
)
def test_as_many_examples_as_asked_for_or_a_refusal(pairs, shots, kind, data):
    rows = [{"context": f"c{c}", "question": f"q{q}"} for c, q in pairs]
    document = data.draw(st.sampled_from(rows))
    sampler = apart(kind(rows, rnd=0))
    sampler.document = document
    others = [row for row in rows if row["context"] != document["context"]]
    if len(others) < shots:
        with pytest.raises(ConfigError, match=f"at most {len(others)}$"):
            sampler.sample(shots, eval_doc=document)
        return
    found = sampler.sample(shots, eval_doc=document)
    assert len(found) == shots
    assert all(row in others for row in found)


def test_translations_and_other_spellings_of_a_document_are_its_own():
    rows = [
        {"id": "56be4db0", "context": "Ein Text", "question": "Was?"},
        {"id": "5", "context": "cafe\u0301  au lait", "question": "Quoi ?"},
        {"id": "7", "context": "autre", "question": "Quoi ?"},
    ]
    sampler = apart(ContextSampler(rows))
    for document, left in (
        ({"id": "56be4db0", "context": "A text"}, rows[1:]),
        ({"id": "7", "context": "café au lait"}, [rows[0], rows[2]]),
    ):
        sampler.document = document
        assert sorted(sampler.sample(2), key=str) == sorted(left, key=str)
        with pytest.raises(ConfigError):
            sampler.sample(3)


def test_rows_of_a_datasets_table_are_taken_too():
    rows = datasets.Dataset.from_list([{"context": str(i)} for i in range(3)])
    sampler = apart(ContextSampler(list(rows)))
    sampler.document = rows[1]
    assert {row["context"] for row in sampler.sample(2)} == {"0", "2"}
