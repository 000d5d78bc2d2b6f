"""Record samples files of several versions of lm-eval, which tests replay.

    python tools/lm_eval_samples.py -o tests/replays/samples 0.4.3 0.4.5 0.4.8 0.4.13

Each version gets an environment of its own for the time, with the torch and the other libraries of
this one where they fit, and evaluates the embedded target (`--model hf`, float32) on two tasks with
texts of our own: one that generates, one that scores. Some minutes on two cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import venv
from pathlib import Path

from lm_eval_specfair.decoding.loading import EMBEDDED_TARGET

# What versions need that is older than what is installed here.
_OLDER = [
    "transformers==4.49.0", "tokenizers==0.21.0", "huggingface_hub==0.29.3", "datasets==3.2.0",
    "fsspec==2024.9.0", "dill==0.3.8", "multiprocess==0.70.16",
]  # fmt: skip
_NEEDS = {"0.4.5": _OLDER, "0.4.8": _OLDER}

_DOCUMENTS = [
    {"question": "The window shows", "language": "en", "wrong": " a horse."},
    {"question": "Das Fenster zeigt", "language": "de", "wrong": " ein Pferd."},
    {"question": "La fenêtre affiche", "language": "fr", "wrong": " un cheval."},
    {"question": "Вікно показує", "language": "uk", "wrong": " коня."},
]
_SHARED = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
_GENERATES = """\
output_type: generate_until
doc_to_target: "{{wrong}}"
generation_kwargs:
  until: ["\\n\\n\\n\\n"]
  max_gen_toks: 16
  do_sample: false
metric_list:
  - metric: exact_match
"""
_SCORES = """\
output_type: multiple_choice
doc_to_choice: ["{{wrong}}", " x"]
doc_to_target: 0
metric_list:
  - metric: acc
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("versions", nargs="+", help="of lm-eval")
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    for version in args.versions:
        with tempfile.TemporaryDirectory() as folder:
            for path in recorded(version, Path(folder)):
                target = args.output / version / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
                print(f"wrote {target}")


def recorded(version: str, folder: Path) -> list[Path]:
    """The samples files that a version of lm-eval writes."""
    python = environment(version, folder / "environment")
    data = folder / "data.jsonl"
    data.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in _DOCUMENTS))
    for task, kind in (("window_generated", _GENERATES), ("window_scored", _SCORES)):
        (folder / f"{task}.yaml").write_text(_SHARED.format(task=task, data=data) + kind)
    model = shutil.copytree(EMBEDDED_TARGET, folder / "model")
    _as_older_versions_read(model)
    command = [
        python, "-m", "lm_eval", "--model", "hf", "--model_args",
        f"pretrained={model},dtype=float32", "--tasks", "window_generated,window_scored",
        "--include_path", folder, "--log_samples", "--output_path", folder / "out",
        "--batch_size", "1", "--device", "cpu",
    ]  # fmt: skip
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
    subprocess.run(list(map(str, command)), env=os.environ | offline, cwd=folder, check=True)
    return sorted((folder / "out").glob("**/samples_*.jsonl"))


def _as_older_versions_read(model: Path) -> None:
    """Name what transformers before 5 has under other names: the same model and tokenizer."""
    config = json.loads((model / "config.json").read_text())
    config["rope_theta"] = config["rope_parameters"]["rope_theta"]
    (model / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((model / "tokenizer_config.json").read_text())
    tokenizer["tokenizer_class"] = "PreTrainedTokenizerFast"
    (model / "tokenizer_config.json").write_text(json.dumps(tokenizer))


def environment(version: str, folder: Path) -> Path:
    """An environment with a version of lm-eval before the libraries of this one; its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*pip, f"lm_eval=={version}", *_NEEDS.get(version, [])], check=True)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


if __name__ == "__main__":
    main()
