"""Files that appear whole or not at all."""

import pytest

from lm_eval_specfair.errors import ConfigError
from lm_eval_specfair.files import (
    replacing,
    replacing_folder,
    restore_folder,
    staged,
    write_file,
    write_files,
)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_files_are_replaced_all_together_and_leave_nothing_beside_them(tmp_path):
    folder = tmp_path / "new" / "folder"
    assert write_files(folder, {"a": "ä", "b": b"\0"}) == [folder / "a", folder / "b"]
    write_files(folder, {"b": "B"})
    assert (folder / "a").read_bytes() == "ä".encode()
    assert (folder / "b").read_text() == "B"
    assert write_file(folder / "c", "C").read_text() == "C"
    assert names(folder) == ["a", "b", "c"]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_while_writing_leaves_the_old_file(tmp_path, error):
    write_file(tmp_path / "a", "old")

    def write_half():
        with replacing(tmp_path / "a") as fresh:
            fresh.write_text("half")
            raise error

    with pytest.raises(error):
        write_half()
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_the_last_file_appears_after_the_others(tmp_path):
    (tmp_path / "b").mkdir()  # no file can take its place, so moving it fails

    def write_both():
        with staged(tmp_path, last="a") as fresh:
            (fresh / "a").write_text("done")
            (fresh / "b").write_text("")

    with pytest.raises(OSError, match="b"):
        write_both()
    assert names(tmp_path) == ["b"]


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    write_file(tmp_path / "file", "")
    with pytest.raises(ConfigError, match=r"^cannot write \S+: \D+; name a file"):
        write_file(tmp_path / "file" / "a", "")
    with pytest.raises(ConfigError, match=r"^cannot write \S+: \D+; name a folder"):
        write_files(tmp_path / "file", {"a": ""})


def test_a_folder_is_replaced_as_one(tmp_path):
    folder = tmp_path / "checkpoint"

    def write(content):
        with replacing_folder(folder) as fresh:
            (fresh / content).write_text("")
            if content == "third":
                raise OSError("full")

    write("first")
    write("second")
    with pytest.raises(OSError, match="full"):
        write("third")
    assert names(folder) == ["second"]
    assert names(tmp_path) == ["checkpoint"]


def test_a_folder_whose_replacement_was_killed_halfway_is_restored(tmp_path):
    folder = tmp_path / "checkpoint"
    with replacing_folder(folder) as fresh:
        (fresh / "good").write_text("")
    folder.rename(folder.with_suffix(".old"))
    restore_folder(folder)
    assert names(folder) == ["good"]
    restore_folder(folder)
    assert names(tmp_path) == ["checkpoint"]
