"""A run's folder and records without a model."""

from lm_eval_specfair.harness.run_folder import RunFolder
from lm_eval_specfair.records import Record

SETTINGS = {"seed": 0, "target": "t"}


def folder_at(path, *, resume: bool = False, rank: int = 0, **settings) -> RunFolder:
    run = {"settings": SETTINGS | settings, "hardware": {}}
    return RunFolder(path, name="pair", resume=resume, run=run, rank=rank)


def record(name: str) -> Record:
    return Record(
        request_id=name,
        task="toy",
        doc_id=0,
        request_type="generate_until",
        group_fields={},
        num_prompt_tokens=1,
    )
