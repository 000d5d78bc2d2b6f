"""The command line: what reaches lm-eval, what is printed where, and the exit statuses.

    python -m pytest tests/cli/test_cli.py

lm-eval's entry point is replaced where a whole evaluation would only cost time; one test has the
real one refuse its input. Evaluations from end to end are in test_end_to_end.py.
"""

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import lm_eval.__main__
import pytest

from lm_eval_specfair import __version__
from lm_eval_specfair.cli import main
from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.records import Record, RecordWriter, Settings, write_run

from support.commands import OFFLINE, refused


@pytest.fixture(autouse=True)
def restored_interpreter(monkeypatch):
    # `specfair run` sets both for lm-eval, as it is a process of its own outside of tests.
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))


@pytest.fixture
def lm_eval_calls(monkeypatch):
    """The argument lists that lm-eval would have seen."""
    calls: list[list[str]] = []
    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", lambda: calls.append(sys.argv[1:]))
    return calls


@pytest.fixture
def run_dir(tmp_path):
    """A run of two languages, 40 requests each: English keeps 3 of 4 drafted tokens, Greek 1."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, {"command": "specfair run --tasks toy", "settings": {}})
    writer = RecordWriter(folder)
    for language, accepted in (("en", 3), ("el", 1)):
        for doc_id in range(40):
            writer.write(_record(language, doc_id, accepted))
    writer.close()
    return folder


def _record(language: str, doc_id: int, accepted: int) -> Record:
    steps = 10
    return Record(
        request_id=f"{language}-{doc_id}",
        task=f"toy_{language}",
        doc_id=doc_id,
        request_type="generate_until",
        group_fields={"language": language, "topic": f"topic {doc_id % 2}"},
        num_prompt_tokens=7,
        num_generated_tokens=steps * (accepted + 1),
        num_generated_bytes=100,
        num_generated_chars=90,
        num_spec_steps=steps,
        num_draft_tokens=4 * steps,
        num_accepted_draft_tokens=accepted * steps,
        num_examined_draft_tokens=(accepted + 1) * steps,
        acceptance_histogram=[steps if i == accepted else 0 for i in range(5)],
        drafted_per_step=[4] * steps,
        accepted_per_step=[accepted] * steps,
        finish_reason="length",
        settings=Settings(num_speculative_tokens=4, temperature=0.0, top_k=None, top_p=None),
    )


@pytest.mark.parametrize(
    ("given", "passed_on"),
    [
        (["--tasks", "x"], ["run", "--model", "specfair", "--tasks", "x"]),
        (
            ["--model_args", "drafter=none", "-t", "x"],
            ["run", "--model", "specfair", "--model_args", "drafter=none", "-t", "x"],
        ),
        (["--model", "hf", "-t", "x"], ["run", "--model", "hf", "-t", "x"]),
        (["-t", "x", "--model=hf"], ["run", "-t", "x", "--model=hf"]),
        (["-t", "x", "-M", "hf"], ["run", "-t", "x", "-M", "hf"]),
        (["-tx", "-Mhf"], ["run", "-tx", "-Mhf"]),
        (["--config", "a.yaml"], ["run", "--config", "a.yaml"]),
        (["-C", "a.yaml"], ["run", "-C", "a.yaml"]),
        # What the report takes is not lm-eval's.
        (["-C", "a.yaml", "--bounds", "--all-measures"], ["run", "-C", "a.yaml"]),
        (
            ["--confirm_run_unsafe_code", "--tasks", "x"],
            ["run", "--model", "specfair", "--confirm_run_unsafe_code", "--tasks", "x"],
        ),
    ],
)
def test_run_passes_all_on_and_names_the_model_only_where_nothing_else_does(
    lm_eval_calls, given, passed_on
):
    assert main(["run", *given]) == 0
    assert lm_eval_calls == [passed_on]


def test_the_verb_run_may_be_left_out_before_an_option(lm_eval_calls):
    assert main(["--tasks", "x"]) == 0
    assert main(["-t", "x", "--model", "hf"]) == 0
    assert lm_eval_calls == [
        ["run", "--model", "specfair", "--tasks", "x"],
        ["run", "-t", "x", "--model", "hf"],
    ]


def test_run_registers_model_and_tasks_without_the_automatic_hook(monkeypatch, lm_eval_calls):
    monkeypatch.setenv("LM_EVAL_SPECFAIR_NO_HOOK", "1")
    sys.meta_path[:] = [f for f in sys.meta_path if "specfair" not in type(f).__module__]

    assert main(["run", "--tasks", "x"]) == 0
    assert any("specfair" in type(finder).__module__ for finder in sys.meta_path)


def test_a_config_error_inside_lm_eval_is_one_line_and_status_2(monkeypatch, capsys):
    def refuse() -> None:
        raise ConfigError("drafter must share\nthe target's vocabulary, got another")

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", refuse)

    assert main(["run", "--tasks", "x"]) == 2
    assert "share the target's vocabulary" in refused(capsys)


@pytest.mark.parametrize("error", [ValueError("a bug"), TypeError("a bug"), OSError("a bug")])
def test_a_bug_keeps_its_traceback(monkeypatch, error):
    def fail() -> None:
        raise error

    monkeypatch.setattr(lm_eval.__main__, "cli_evaluate", fail)

    with pytest.raises(type(error), match="a bug"):
        main(["run", "--tasks", "x"])


def test_what_lm_eval_refuses_before_any_work_is_status_2(capsys, tmp_path):
    config = tmp_path / "run.yaml"
    config.write_text("tasks: [x]\nno_such_option: 1\n")
    for arguments, complaint in [
        ([], "run needs --tasks"),
        (["--tasks", "x", "--limit", "1", "--samples", '{"x": [0]}'], "--limit must be None"),
        (["--config", str(tmp_path / "missing.yaml")], "Config file not found"),
        (["--config", str(config)], "no_such_option"),
        (["--tasks", "x", "--model_args", "{broken"], "Invalid JSON"),
    ]:
        assert main(["run", *arguments]) == 2, arguments
        assert complaint in refused(capsys)


@pytest.mark.slow
def test_an_unknown_task_or_model_is_one_line_and_status_2():
    code = (
        "import logging, sys, warnings; warnings.simplefilter('ignore')\n"
        "from lm_eval_specfair.cli import main\n"
        "logging.disable(logging.WARNING)\n"
        "print(main(['run', '--tasks', 'no_such_task']))\n"
        "print(main(['run', '--model', 'no_such_model', '--tasks', 'hellaswag']))\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", code], env=OFFLINE, capture_output=True, text=True, check=False
    )

    assert done.stdout.split() == ["2", "2"], done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("specfair: error: ")]
    assert len(errors) == 2
    assert "no_such_task" in errors[0]
    assert "no_such_model" in errors[1]
    assert "Traceback" not in done.stderr


def test_report_prints_every_format_and_nothing_else(run_dir, capsys):
    outputs = {}
    for form in ("table", "md", "json", "csv", "html"):
        assert main(["report", str(run_dir), "--format", form]) == 0
        outputs[form], err = capsys.readouterr()
        assert err == ""

    # 3 of 4 examined tokens are kept, and 1 of 2.
    groups = json.loads(outputs["json"])["groups"]
    assert groups["en"]["conditional_acceptance_rate"]["value"] == pytest.approx(0.75)
    assert groups["el"]["conditional_acceptance_rate"]["value"] == pytest.approx(0.5)
    assert len(list(csv.reader(io.StringIO(outputs["csv"])))) > 2
    assert outputs["html"].lstrip().lower().startswith("<!doctype html")
    assert len(set(outputs.values())) == 5


def test_report_groups_by_another_field(run_dir, capsys):
    assert main(["report", str(run_dir), "--group-by", "topic", "--format", "json"]) == 0

    assert set(json.loads(capsys.readouterr().out)["groups"]) == {"topic 0", "topic 1"}


def test_report_writes_files_only_where_asked_and_names_them_on_stderr(run_dir, tmp_path, capsys):
    before = sorted(run_dir.iterdir())
    output = tmp_path / "deep" / "report"

    assert main(["report", str(run_dir), "--format", "json", "-o", str(output)]) == 0

    out, err = capsys.readouterr()
    json.loads(out)
    files = [Path(line.removeprefix("specfair: wrote ")) for line in err.splitlines()]
    assert files
    assert all(file.is_file() and file.is_relative_to(output) for file in files)
    assert sorted(run_dir.iterdir()) == before


def test_run_ends_with_the_report_of_each_finished_run(monkeypatch, lm_eval_calls, run_dir, capsys):
    class SpecFairLM:
        finished_runs = (run_dir,)
        failed_runs = frozenset()

    stand_in = type(sys)("lm_eval_specfair.harness.model")
    stand_in.SpecFairLM = SpecFairLM
    monkeypatch.setitem(sys.modules, "lm_eval_specfair.harness.model", stand_in)

    assert main(["run", "--tasks", "x"]) == 0

    out, err = capsys.readouterr()
    assert "el" in out
    assert str(run_dir) in err
    assert len(list(run_dir.iterdir())) > 2


def test_report_refuses_what_is_no_run(tmp_path, run_dir, capsys):
    a_file = tmp_path / "file"
    a_file.write_text("")
    for arguments in (
        [str(tmp_path / "missing")],
        [str(tmp_path)],
        [str(a_file)],
        [str(run_dir), str(tmp_path / "missing")],
        [str(run_dir), "--group-by", "no_such_field"],
    ):
        assert main(["report", *arguments]) == 2, arguments
        refused(capsys)


def test_report_refuses_an_output_that_cannot_be_a_folder(tmp_path, run_dir, capsys):
    a_file = tmp_path / "file"
    a_file.write_text("")

    assert main(["report", str(run_dir), "-o", str(a_file)]) == 2
    assert str(a_file) in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["no-such-verb"], ["report"], ["report", "x", "--format", "pdf"]]
)
def test_arguments_that_make_no_sense_are_status_2(arguments, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr().err
    assert shown.count("\n") == 1
    assert "--help`" in shown


def test_tasks_path_prints_a_folder(capsys):
    assert main(["tasks-path"]) == 0
    assert Path(capsys.readouterr().out.strip()).is_dir()


def test_every_verb_has_help_with_an_example(capsys):
    for arguments in (["--help"], ["run", "--help"], ["report", "-h"], ["tasks-path", "--help"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 0
        assert "example" in capsys.readouterr().out


def test_the_help_of_run_shows_our_text_and_then_lm_evals(capsys):
    with pytest.raises(SystemExit):
        main(["run", "--help"])

    out = capsys.readouterr().out
    assert out.index("specfair run --tasks specfair_demo") < out.index("--num_fewshot")


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.strip() == f"specfair {__version__}"


@pytest.mark.parametrize("verb", ["report", "train", "export"])
def test_help_loads_no_numerical_library(verb):
    # How long it takes is measured by benchmarks/startup.py.
    heavy = "torch transformers accelerate datasets lm_eval pyarrow numpy scipy pandas jinja2"
    code = (
        "import sys\n"
        "from lm_eval_specfair.cli import main\n"
        f"try: main([{verb!r}, '--help'])\n"
        "except SystemExit: pass\n"
        f"print(sorted(set({heavy.split()}) & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def test_python_m_is_the_same_command():
    def output(*command: str) -> str:
        return subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=True
        ).stdout

    call = "import sys; from lm_eval_specfair.cli import main; sys.exit(main(['tasks-path']))"
    assert output("-m", "lm_eval_specfair", "tasks-path") == output("-c", call)


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("compare missing none --metric nonsense", "--metric"),
        ("compare missing none --min-requests 0", "--min-requests"),
        ("compare missing none --group-by ,", "--group-by"),
        ("compare missing none --junit out.xml", "--gate"),
        ("compare missing none --gate none.yaml", "none.yaml"),
        ("plan missing --metric nonsense", "--metric"),
        ("plan missing --power 1", "--power"),
        ("report missing --group-by a,,b", "--group-by"),
        ("report missing --samples none", "--samples"),
        ("report missing --groups none.yaml", "none.yaml"),
        ("report missing --group-source guess", "--group-source"),
        ("report missing --min-requests many", "--min-requests"),
        ("policy missing --longest 65", "--longest"),
        ("policy missing --costs nan,1,0", "--costs"),
        ("policy missing --costs 0,0,1", "--costs"),
        ("policy missing --costs 0,inf,1", "--costs"),
        ("replay missing --drafter embedded -o out --dtype float7", "--dtype"),
        ("replay missing --drafter embedded -o out --dtype int8", "--dtype"),
        ("replay missing --drafter embedded -o out --device abacus", "--device"),
        ("replay missing --drafter embedded -o out --num-speculative-tokens 0", "--num-spec"),
        ("replay missing --drafter embedded -o out --temperature nan", "--temperature"),
        ("replay missing --drafter embedded -o out --seed -1", "--seed"),
        ("train --data missing -o out --tokens 0", "tokens"),
        ("train --data missing -o out --learning-rate -1", "learning_rate"),
        ("train --data missing -o out --weighting fair", "weighting"),
        ("train --data missing -o out --temperatures hot", "--temperatures"),
        ("train --data missing -o out --lora-rank 0", "--lora-rank"),
        ("train --data missing -o out --cache-top-k 0", "--cache-top-k"),
        ("train --data missing -o out --tracker nonsense", "--tracker"),
        ("train --data missing -o out --target-device-map {", "--target-device-map"),
        ("submission pack missing --name x --url javascript:x", "--url"),
        ("submission pack missing --name x --group-by ,", "--group-by"),
        ("conformance --check nonsense", "--check"),
        ("conformance --backend nonsense", "--backend"),
        ("fetch-data nonsense -o out", "nonsense"),
    ],
)
def test_a_value_that_no_data_could_make_right_is_refused_before_data_is_read(
    words, flag, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)

    assert main(words.split()) == 2
    message = refused(capsys)
    assert flag.replace("_", "-") in message.replace("_", "-")
    assert "missing" not in message
    assert not list(tmp_path.iterdir())
