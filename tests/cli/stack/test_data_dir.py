from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from cli.stack.data_dir import DataDir
from cli.stack.private_files import write_private
from shared.exceptions import StackError


if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def directory(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "deep" / "stack")
    made.prepare()
    return made


def test_a_new_directory_is_its_owners_only(directory: DataDir) -> None:
    assert stat.S_IMODE(directory.root.stat().st_mode) == 0o700


def test_an_empty_directory_becomes_its_owners_only(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    DataDir(tmp_path).prepare()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o700


def test_the_mode_of_one_that_was_used_is_left_alone(directory: DataDir) -> None:
    directory.load_secrets()
    directory.root.chmod(0o755)
    directory.prepare()
    assert stat.S_IMODE(directory.root.stat().st_mode) == 0o755


def test_one_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "something").touch()
    with pytest.raises(StackError, match=r"has other things in it.* give --data-dir a new"):
        DataDir(tmp_path).prepare()
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StackError, match="cannot be used"):
        DataDir(tmp_path / "file").prepare()


def test_only_one_stack_at_a_time(directory: DataDir) -> None:
    with (
        directory.locked(),
        pytest.raises(StackError, match="in use by the stack of process"),
        DataDir(directory.root).locked(),
    ):
        pass
    with directory.locked():
        pass


def test_secrets_stay_the_same(directory: DataDir) -> None:
    made = directory.load_secrets()
    made.api_keys["alice@acme"] = "cvmstop_key"
    directory.save_secrets(made)
    assert directory.load_secrets() == made
    assert stat.S_IMODE(directory.secrets_file.stat().st_mode) == 0o600
    assert made.valkey not in repr(made)


def test_secrets_of_before_there_were_webhooks_get_keys_for_them(directory: DataDir) -> None:
    made = directory.load_secrets()
    kept = json.loads(directory.secrets_file.read_text())
    del kept["webhook_keys"]
    directory.secrets_file.write_text(json.dumps(kept))
    loaded = directory.load_secrets()
    assert loaded.webhook_keys
    assert loaded.sealing_keys == made.sealing_keys
    assert directory.load_secrets() == loaded


def test_secrets_that_cannot_be_read(directory: DataDir) -> None:
    directory.secrets_file.write_text("{")
    with pytest.raises(StackError, match="cannot be read"):
        directory.load_secrets()


def test_a_database_whose_secrets_are_gone(directory: DataDir) -> None:
    directory.postgresql.mkdir()
    with pytest.raises(StackError, match="is gone"):
        directory.load_secrets()


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o644)
    write_private(path, "new")
    assert path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]
