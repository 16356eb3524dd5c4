"""Agent-loop workers for scaling.py: forked processes that run verl's own worker class in a Ray cluster as drivers.

A Ray actor of verl's `AgentLoopWorkerTQ` imports all of verl and torch for itself; 64 of them do not fit here. So the
class is loaded once and the process forked before it knows Ray. What differs from verl: a worker is a driver and no
actor, and its batch comes by a pipe.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

from scaling_member import Member


class Crew:
    """The forked processes. To be made before this process starts a thread, Ray's above all."""

    def __init__(self, size: int):
        context = multiprocessing.get_context("fork")
        self.pipes: list[Connection] = []
        self.processes = []
        for number in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, number), daemon=False)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def send(self, number: int, command: str, *arguments: Any) -> None:
        """Give a member a command; `receive` gives its result."""
        self.pipes[number].send_bytes(pickle.dumps((command, arguments)))

    def receive(self, number: int, timeout_s: float = 300.0) -> Any:
        """Wait for the result of a member's command.

        Raises:
            RuntimeError: the command failed, or took longer than ``timeout_s``.
        """
        if not self.pipes[number].poll(timeout_s):
            raise RuntimeError(f"worker {number} did not answer within {timeout_s:g} s")
        kind, value = pickle.loads(self.pipes[number].recv_bytes())
        if kind == "error":
            raise RuntimeError(f"worker {number} failed:\n{value}")
        return value

    def ask(self, numbers: Sequence[int], command: str, *arguments: Any, at_once: int = 1_000) -> list[Any]:
        """The same command to several members, ``at_once`` at a time."""
        results = []
        for start in range(0, len(numbers), at_once):
            chosen = numbers[start : start + at_once]
            for number in chosen:
                self.send(number, command, *arguments)
            results += [self.receive(number) for number in chosen]
        return results

    def stop(self) -> None:
        """End the processes."""
        for process in self.processes:
            process.kill()  # Ray's own end of a driver takes a second, and there is nothing left to save
        for process in self.processes:
            process.join()


def _serve(pipe: Connection, number: int) -> None:
    parent = os.getppid()
    member = Member(number)
    while True:
        while not pipe.poll(1.0):
            if os.getppid() != parent:
                os._exit(1)
        command, arguments = pickle.loads(pipe.recv_bytes())
        try:
            result = ("value", getattr(member, command)(*arguments))
        except BaseException:
            result = ("error", traceback.format_exc())
        pipe.send_bytes(pickle.dumps(result))
