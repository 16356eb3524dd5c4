"""The skip policy of conftest.py, run on test files of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

SKIPPED_TEST = """
    import pytest

    def test_skipped():
        pytest.skip({reason!r})
"""


@pytest.fixture
def policy(pytester: pytest.Pytester, repository: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.delenv("CI", raising=False)
    pytester.makeconftest((repository / "tests" / "conftest.py").read_text(encoding="utf-8"))
    pytester.makeini(
        """
        [pytest]
        asyncio_default_fixture_loop_scope = function
        markers =
            gpu: needs an accelerator
            e2e: runs the pipeline
            verl: imports verl
            browser: opens pages
        """
    )
    return pytester


def run(policy: pytest.Pytester) -> pytest.RunResult:
    return policy.runpytest_inprocess("-p", "no:cacheprovider", "-rs")


@pytest.mark.parametrize(
    "reason", ["needs an accelerator", "needs chromium", "benchmark data folder ../shared/data is absent"]
)
def test_allowed_reason_is_skipped_in_ci_and_printed(
    policy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setenv("CI", "true")
    policy.makepyfile(SKIPPED_TEST.format(reason=reason))
    result = run(policy)
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines([f"SKIPPED*{reason}"])


def test_other_reason_fails_in_ci(policy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    policy.makepyfile(SKIPPED_TEST.format(reason="no time today"))
    result = run(policy)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ALLOWED_SKIPS; got 'no time today'*"])


def test_other_reason_is_skipped_outside_ci(policy: pytest.Pytester) -> None:
    policy.makepyfile(SKIPPED_TEST.format(reason="no time today"))
    run(policy).assert_outcomes(skipped=1)


def test_skip_mark_fails_in_ci(policy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    policy.makepyfile("import pytest\n@pytest.mark.skipif(True, reason='off')\ndef test_marked(): pass")
    run(policy).assert_outcomes(errors=1)


def test_module_that_skips_itself_fails_in_ci(policy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    policy.makepyfile("import pytest\npytest.importorskip('no_such_module_anywhere')\ndef test_never(): pass")
    run(policy).assert_outcomes(errors=1)


def test_expected_failure_is_no_skip_in_ci(policy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    policy.makepyfile("import pytest\n@pytest.mark.xfail(strict=True)\ndef test_known(): assert False")
    run(policy).assert_outcomes(xfailed=1)


@pytest.mark.parametrize(
    ("folder", "marker"), [("e2e", "e2e"), ("adapters", "verl"), ("cpu", "verl"), ("browser", "browser")]
)
def test_folder_gives_marker(policy: pytest.Pytester, folder: str, marker: str) -> None:
    # conftest.py marks what lies under its own tests folder, so it is put into one here
    tests = policy.mkdir("tests")
    (policy.path / "conftest.py").rename(tests / "conftest.py")
    (tests / folder).mkdir()
    (tests / folder / "test_one.py").write_text("def test_one(): pass", encoding="utf-8")
    (tests / "test_two.py").write_text("def test_two(): pass", encoding="utf-8")
    policy.runpytest_inprocess("-p", "no:cacheprovider", "-m", marker).assert_outcomes(passed=1, deselected=1)


def test_gpu_test_is_skipped_without_accelerator_even_in_ci(
    policy: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setenv("CI", "true")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    policy.makepyfile("import pytest\n@pytest.mark.gpu\ndef test_device(): raise AssertionError")
    run(policy).assert_outcomes(skipped=1)
