"""The calls of a `verl_multiattempt.verifier_pool.WorkerPool` that wait for a worker."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Generic, TypeVar

Item = TypeVar("Item")


class CallQueue(Generic[Item]):
    """First come, first served; with a bounded number of places. No step takes longer where more wait.

    That holds for leaving too, since a rollout that is cancelled takes thousands of calls out at once; a deque and
    `asyncio.Semaphore` search for the one that leaves.

    Args:
        num_places: items that the queue holds; who has none waits for a place.
    """

    def __init__(self, num_places: int):
        self._num_free = num_places
        self._waiting: OrderedDict[asyncio.Future[None], None] = OrderedDict()
        self._items: OrderedDict[Item, None] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._items)

    async def take_place(self) -> None:
        """Wait for a place. It must be given back by `give_place`, `pop` or `remove`."""
        if self._num_free:
            self._num_free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting[turn] = None
        try:
            await turn
        except asyncio.CancelledError:
            self._waiting.pop(turn, None)
            if not turn.cancelled():
                self.give_place()  # it was given, and nobody is there to take it
            raise

    def give_place(self) -> None:
        """Give back a place that no item has."""
        while self._waiting:
            turn, _ = self._waiting.popitem(last=False)
            if not turn.done():
                turn.set_result(None)
                return
        self._num_free += 1

    def append(self, item: Item) -> None:
        """Put an item in the place that was taken before."""
        self._items[item] = None

    def first(self) -> Item:
        """The item whose turn it is, left where it is."""
        return next(iter(self._items))

    def pop(self) -> Item:
        """Take out the item whose turn it is, and give back its place."""
        item, _ = self._items.popitem(last=False)
        self.give_place()
        return item

    def remove(self, item: Item) -> bool:
        """Take out an item wherever it stands, and give back its place; False if it is not there."""
        if item not in self._items:
            return False
        del self._items[item]
        self.give_place()
        return True
