"""The verifier process: ``python -m verl_multiattempt.verifier_worker MEMORY_LIMIT_MB``.

Reads one JSON request a line (``{"answer": ..., "gold": ...}``) from standard input and writes one JSON reply a line
(``{"correct": bool}`` or ``{"error": text}``). It runs in its own process and in that process's main thread so that
the pool can end it from outside whatever sympy is doing.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, also in the middle of a computation."""
    try:
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
    except (OSError, AttributeError):
        return  # not Linux: the end of standard input ends the process between requests


def _limit_memory(megabytes: int) -> None:
    import resource

    limit = megabytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def check(answer: str, gold: str) -> bool:
    """Whether math-verify takes ``answer`` for ``gold``; both are LaTeX or plain expressions.

    Raises:
        MemoryError, RecursionError: the comparison could not be made.
    """
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

    targets = [LatexExtractionConfig(), ExprExtractionConfig()]
    # parsing_timeout and timeout_seconds are off: they rely on SIGALRM, and the pool's limit is the real one.
    parsed_gold = parse(f"${gold}$", targets, parsing_timeout=None)
    parsed_answer = parse(f"${answer}$", targets, parsing_timeout=None)
    if verify(parsed_gold, parsed_answer, timeout_seconds=None):
        return True
    # math-verify takes whatever fails inside it for "not equal"; running out of memory or stack is no verdict.
    try:
        verify(parsed_gold, parsed_answer, timeout_seconds=None, raise_on_error=True)
    except (MemoryError, RecursionError):
        raise
    except Exception:
        return False
    return False


def main() -> None:
    """Serve requests until standard input ends."""
    _die_with_parent()
    parent = os.getppid()
    # Replies get their own descriptor, so that nothing a library prints can pass for one.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    # It warns at each call that its own time-outs are off.
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    check("\\frac{1}{2}", "0.5")  # import sympy and its LaTeX parser before the first request is timed
    _limit_memory(int(sys.argv[1]))
    replies.write('{"ready": true}\n')
    for line in sys.stdin:
        if os.getppid() != parent:
            return
        try:
            request = json.loads(line)
            reply: dict[str, object] = {"correct": check(request["answer"], request["gold"])}
        except MemoryError:
            reply = {"error": "out of memory"}
        except RecursionError:
            reply = {"error": "nested too deeply"}
        except Exception as error:
            reply = {"error": f"{type(error).__name__}: {error}"[:500]}
        replies.write(json.dumps(reply) + "\n")


if __name__ == "__main__":
    main()
