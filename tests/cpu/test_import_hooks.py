import importlib
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest

from verl_multiattempt.cpu.import_hooks import after_import


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package with the modules ``plain``, ``user`` (imports plain's name) and ``broken``."""
    name = f"hooked_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "plain.py").write_text("value = 1\ndef f():\n    return value\n")
    (folder / "user.py").write_text(f"from {name}.plain import value\n")
    (folder / "broken.py").write_text("raise ValueError('broken itself')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_callback_runs_before_an_importer_reads_the_module(package: str) -> None:
    after_import(f"{package}.plain", lambda module: setattr(module, "value", 2))
    assert importlib.import_module(f"{package}.user").value == 2


def test_module_imported_already_is_handled_at_once(package: str) -> None:
    module = importlib.import_module(f"{package}.plain")
    after_import(f"{package}.plain", lambda module: setattr(module, "value", 3))
    assert module.value == 3


def test_callback_runs_once(package: str) -> None:
    seen: list[ModuleType] = []
    after_import(f"{package}.plain", seen.append)
    module = importlib.import_module(f"{package}.plain")
    importlib.reload(module)
    assert seen == [module]


def test_nothing_is_imported_by_registering(package: str) -> None:
    after_import(f"{package}.plain", lambda module: None)
    assert package not in sys.modules


def test_source_of_hooked_module_stays_readable(package: str) -> None:
    after_import(f"{package}.plain", lambda module: None)
    assert "return value" in inspect.getsource(importlib.import_module(f"{package}.plain"))


def test_error_of_callback_fails_the_import(package: str) -> None:
    def fail(module: ModuleType) -> None:
        raise RuntimeError("patch does not fit")

    after_import(f"{package}.plain", fail)
    with pytest.raises(RuntimeError, match="patch does not fit"):
        importlib.import_module(f"{package}.plain")


def test_error_of_module_itself_is_untouched(package: str) -> None:
    after_import(f"{package}.broken", lambda module: None)
    with pytest.raises(ValueError, match="broken itself"):
        importlib.import_module(f"{package}.broken")
