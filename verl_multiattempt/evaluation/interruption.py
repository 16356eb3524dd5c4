"""Ending in order when the process is asked to: Ctrl-C, or SIGTERM of a cluster's scheduler."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from types import FrameType
from typing import Any, TypeVar

_T = TypeVar("_T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(Exception):
    """A signal ended the work; what had to be closed is closed."""

    def __init__(self, number: int):
        self.number = number
        super().__init__(signal.Signals(number).name)


def run_interruptible(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine to its end in a loop of its own; a first signal cancels it, a second one ends it at once.

    Args:
        work: what to run; on a signal it is cancelled, and closes what it has open.

    Raises:
        Interrupted: a signal came, and the work ended because of it.
        KeyboardInterrupt: a second signal came before the work had ended.
    """

    async def main() -> _T:
        task, loop = asyncio.ensure_future(work), asyncio.get_running_loop()

        # Not the loop's own handlers: those say nothing while the work holds the loop, as vLLM does at its start.
        def on_signal(number: int, frame: FrameType | None) -> None:
            if received:
                raise KeyboardInterrupt
            received.append(number)
            loop.call_soon_threadsafe(task.cancel)

        before = _install(on_signal)
        try:
            return await task
        except (Exception, asyncio.CancelledError):
            # Processes of the engine get the terminal's Ctrl-C as well, so their death is no failure of its own.
            if received:
                raise Interrupted(received[0]) from None
            raise
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    received: list[int] = []
    return asyncio.run(main())


def _install(handler: Any) -> dict[int, Any]:
    """Set the handler of both signals; the ones before. Only the main thread may."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.signal(number, handler) for number in _SIGNALS}
