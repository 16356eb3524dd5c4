"""How a subcommand ends without success: the sentence that is printed, and the exit status that goes with it."""

from __future__ import annotations


class UsageError(ValueError):
    """An argument, or a file that one names, cannot work; exit status 2."""


class CommandError(RuntimeError):
    """The command was understood and did not get to its end; exit status 1."""


def ended(sentence: str) -> str:
    """The sentence with one full stop at its end, whether it has one or not; for another to follow."""
    return sentence if sentence.endswith((".", "!", "?")) else f"{sentence}."
