"""Files that are there whole or as before."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_multiattempt.whole_file import written_whole


def write(path: Path, text: str) -> None:
    with written_whole(path) as draft, draft.open("w") as file:
        file.write(text)


def test_what_was_written_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write(target, "old")
    write(target, "new")
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]


def test_an_error_while_writing_leaves_the_file_as_it_was_and_no_draft(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    write(target, "old")

    def fail_half_way() -> None:
        with written_whole(target) as draft:
            draft.write_text("ne")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        fail_half_way()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_disk_that_is_full_at_the_end_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "a.txt"
    write(target, "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]
