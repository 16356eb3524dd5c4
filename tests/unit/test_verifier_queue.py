"""The queue of the worker pool: order, places, and what it costs to leave."""

from __future__ import annotations

import asyncio
import random
import time

from verl_multiattempt.verifier_queue import CallQueue


async def put(queue: CallQueue[int], item: int) -> None:
    await queue.take_place()
    queue.append(item)


async def put_all(queue: CallQueue[int], number: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(put(queue, item)) for item in range(number)]
    for _ in range(3):
        await asyncio.sleep(0)
    return tasks


async def test_first_come_first_served_within_the_places() -> None:
    queue: CallQueue[int] = CallQueue(3)
    tasks = await put_all(queue, 10)
    assert [task.done() for task in tasks] == [True] * 3 + [False] * 7
    seen = []
    while queue:
        assert queue.first() == queue.first()
        seen.append(queue.pop())
        await asyncio.sleep(0)
    assert seen == list(range(10))
    assert all(task.done() for task in tasks)


async def test_removing_gives_the_place_to_the_next() -> None:
    queue: CallQueue[int] = CallQueue(2)
    await put_all(queue, 3)
    assert queue.remove(0)
    assert not queue.remove(0)
    assert not queue.remove(2)
    await asyncio.sleep(0)
    assert [queue.pop(), queue.pop()] == [1, 2]
    assert not queue


async def test_place_that_was_given_to_one_who_is_cancelled_goes_on_to_the_next() -> None:
    queue: CallQueue[int] = CallQueue(1)
    tasks = await put_all(queue, 3)
    queue.pop()  # gives the place to the second, who is cancelled before it runs
    tasks[1].cancel()
    await asyncio.wait(tasks)
    assert queue.pop() == 2
    await put(queue, 7)
    assert queue.pop() == 7


async def test_no_place_is_lost_or_won_in_any_order_of_events() -> None:
    chance = random.Random(0)
    for _ in range(100):
        queue: CallQueue[int] = CallQueue(4)
        tasks = await put_all(queue, 12)
        for task in chance.sample(tasks, 6):
            if chance.random() < 0.5 and queue:
                queue.pop()
            task.cancel()
            if chance.random() < 0.5:
                await asyncio.sleep(0)
        await asyncio.sleep(0)
        while queue:
            queue.pop()
            await asyncio.sleep(0)
        await asyncio.wait(tasks)
        tasks = await put_all(queue, 5)
        assert [task.done() for task in tasks] == [True] * 4 + [False]
        queue.pop()
        await asyncio.wait(tasks)


async def test_cost_of_leaving_does_not_grow_with_the_queue() -> None:
    queue: CallQueue[int] = CallQueue(20_000)
    tasks = await put_all(queue, 40_000)  # half of them wait for a place
    started = time.process_time()
    for task in reversed(tasks[20_000:]):
        task.cancel()
    await asyncio.wait(tasks)
    for item in reversed(range(20_000)):
        assert queue.remove(item)
    assert time.process_time() - started < 2.5  # with a search each time: over 5 s
    assert not queue
