"""What the package promises to the outside: its names, and that its core needs neither torch nor verl."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import verl_multiattempt

PACKAGE = Path(verl_multiattempt.__file__).parent
# What lies on top is light as well, but it may reach for verl, vLLM and the adapters when it is used.
ABOVE = ("__main__", "cli", "evaluation")
NOT_CORE = ("adapters", "cpu", *ABOVE)


def modules(wanted: Callable[[str], bool]) -> tuple[str, ...]:
    """Modules of the package, by dotted name, of the folders and files that are wanted."""
    paths = (path.relative_to(PACKAGE).with_suffix("") for path in PACKAGE.rglob("*.py"))
    return tuple(sorted(".".join(path.parts) for path in paths if path.stem != "__init__" and wanted(path.parts[0])))


CORE = modules(lambda name: name not in NOT_CORE)
FRAME = modules(lambda name: name in ABOVE)


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
heavy = {{"torch", "verl", "vllm", "ray", "transformers", "sympy", "math_verify", "omegaconf", "datasets", "matplotlib",
         "openai", "pyarrow"}} & set(sys.modules)
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
