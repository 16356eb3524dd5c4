"""What the package promises to the outside: its names, and that its core needs neither torch nor verl."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import verl_multiattempt

CORE = (
    "answer", "attempts", "cli_errors", "episode", "feedback", "metrics", "record", "record_writer", "reward",
    "rollout",
    "settings",
    "verifier",
    "verifier_crew", "verifier_guard", "verifier_linux",
    "verifier_pool", "verifier_process", "verifier_queue", "verifier_server", "verifier_worker",
    "view", "view_page", "view_summary", "view_text",
    "chat.attempt_generator", "chat.decode", "chat.findings", "chat.layout", "chat.scaffold", "chat.tokens",
    "math_verifier.compare", "math_verifier.computed", "math_verifier.decide", "math_verifier.expression",
    "math_verifier.forms", "math_verifier.leaf", "math_verifier.normal", "math_verifier.ranges",
    "math_verifier.rounding",
    "math_verifier.spelling", "math_verifier.structure", "math_verifier.text", "math_verifier.units",
    "math_verifier.values", "math_verifier.verifier",
)  # fmt: skip
PACKAGES = ("chat", "math_verifier")
"""Folders of the core; `adapters` and `cpu` are not part of it."""
# The command line lies on top: light as well, but it may reach into the adapters when a subcommand is used.
FRAME = ("__main__", "cli")


def test_all_is_pinned() -> None:
    assert verl_multiattempt.__all__ == [
        "Attempt",
        "Episode",
        "Generation",
        "Outcome",
        "Question",
        "Settings",
        "Stop",
        "Verdict",
        "Verifier",
        "episode_reward",
        "extract_answer",
        "register_verifier",
        "run_episode",
    ]


def test_every_public_name_is_there_and_documented() -> None:
    for name in verl_multiattempt.__all__:
        assert getattr(verl_multiattempt, name).__doc__, name


def test_importing_the_core_leaves_torch_verl_and_vllm_out() -> None:
    code = f"""
import sys
from importlib import import_module
for name in {CORE + FRAME!r}:
    import_module(f"verl_multiattempt.{{name}}")
heavy = {{"torch", "verl", "vllm", "ray", "transformers", "sympy", "math_verify", "omegaconf"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", CORE)
def test_core_module_imports_neither_adapters_nor_cpu(repository: Path, name: str) -> None:
    path = repository / "verl_multiattempt" / f"{name.replace('.', '/')}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = {
        module
        for node in ast.walk(tree)
        for module in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    refused = ("verl", "vllm", "torch", "ray", "verl_multiattempt.adapters", "verl_multiattempt.cpu")
    assert not [module for module in imported for bad in refused if module == bad or module.startswith(f"{bad}.")]


def test_core_list_names_every_module(repository: Path) -> None:
    package = repository / "verl_multiattempt"
    folders = [package, *(package / name for name in PACKAGES)]
    paths = [path.relative_to(package).with_suffix("") for folder in folders for path in folder.glob("*.py")]
    modules = {".".join(path.parts) for path in paths if path.stem != "__init__"}
    assert set(CORE) <= modules
    assert modules - set(CORE) == set(FRAME)
