"""Dynamic batching: requests for the same values of the same model, joined into one run."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import weakref
from collections import OrderedDict, defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from endoscope_server.errors import LimitExceeded
from endoscope_server.graph import Sessions
from endoscope_server.mirror import memory
from endoscope_server.models import Model
from endoscope_server.serving.demand import Demand
from endoscope_server.serving.pace import Pace
from endoscope_server.serving.plan import Outcome, Plan, rows_of
from endoscope_server.serving.rows import Arrays
from endoscope_server.serving.statistics import Statistics

PLANS = 64
"""How many sets of values of one model are remembered."""

PATIENCE = 0.5
"""The part of a run's time for which a request waits for others at most."""

RETRY_AFTER = 1.0
"""Seconds after which a place in a full queue may be free."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request gets.

    Attributes:
        values: An array for each value asked for; possibly a view of a batch's.
        rows: How many rows the request had; 0 if its inputs have no rows in common.
        waiting_ns: Nanoseconds from its arrival to the run in which it took part.
        computing_ns: Nanoseconds of that run.
    """

    values: Mapping[str, NDArray[np.generic]]
    rows: int
    waiting_ns: int
    computing_ns: int


@dataclass(eq=False, slots=True)
class _Request:
    inputs: Arrays
    rows: int
    arrived: int
    answer: asyncio.Future[Answer]


@dataclass(frozen=True, slots=True)
class _Run:
    started: int
    ended: int
    outcomes: list[Outcome]


@dataclass(eq=False, slots=True)
class _Queue:
    """Requests that wait and that one run could answer."""

    model: Model
    plan: Plan
    demand: Demand
    pace: Pace
    requests: deque[_Request] = field(default_factory=deque)

    @property
    def rows(self) -> int:
        return sum(request.rows for request in self.requests)

    def prune(self) -> None:
        """Let go of requests that nobody waits for any more."""
        for request in [request for request in self.requests if request.answer.done()]:
            self.requests.remove(request)
            self.demand.leave(request.rows)

    def take(self, most: int) -> list[_Request]:
        """The first requests, as many as have at most so many rows together, and at least one."""
        taken = [self.requests.popleft()]
        rows = taken[0].rows
        while self.requests and self.plan.may_join and rows + self.requests[0].rows <= most:
            taken.append(self.requests.popleft())
            rows += taken[-1].rows
        return taken


@dataclass(eq=False, slots=True)
class _Line:
    """The plan for a set of values, and how often it is asked for."""

    plan: asyncio.Future[Plan]
    demand: Demand = field(default_factory=Demand)
    pace: Pace = field(default_factory=Pace)


class Batcher:
    """Runs requests; those that wait for the same values are joined. Belongs to one event loop.

    While a run goes on, others' requests gather. Where a runner is free, a request waits for others only if
    lately more came together than are there now, and only briefly: a client that is alone never waits.

    Args:
        runners: How many runs go on at once.
        max_rows: The largest batch that is joined; a request of more rows is run by itself.
        max_delay: Seconds that a request waits for others at most while a runner is free.
        max_waiting: How many requests may be under way.

    Attributes:
        statistics: What was run, by the model's name.
    """

    def __init__(
        self,
        runners: int = 2,
        max_rows: int = 16,
        max_delay: float = 0.002,
        max_waiting: int = 1024,
    ) -> None:
        # Each request brings as much as the one before.
        memory.prepare()
        self.max_rows = max_rows
        self.max_delay = max_delay
        self.statistics: dict[str, Statistics] = defaultdict(Statistics)
        self._pool = ThreadPoolExecutor(runners, thread_name_prefix="inference")
        self._runners = runners
        self._free = runners
        self._max_waiting = max_waiting
        self._under_way = 0
        self._lines: weakref.WeakKeyDictionary[Model, OrderedDict[tuple[str, ...], _Line]] = (
            weakref.WeakKeyDictionary()
        )
        self._narrow: weakref.WeakKeyDictionary[Model, Sessions] = weakref.WeakKeyDictionary()
        self._queues: OrderedDict[object, _Queue] = OrderedDict()
        self._alarm: asyncio.TimerHandle | None = None

    async def run(self, model: Model, inputs: Arrays, outputs: Sequence[str]) -> Answer:
        """Values of a model for some inputs.

        Args:
            model: In memory.
            inputs: Arrays by input name. They must not change before the answer is there.
            outputs: Value names or layer aliases.

        Raises:
            InvalidInput, NotFound, Unsupported: as :meth:`Sessions.run`.
            LimitExceeded: if too many requests are under way, with the time to try again.
        """
        arrived = time.perf_counter_ns()
        names = {asked: model.graph.resolve(asked) for asked in outputs}
        model.inference_sessions.check_inputs(inputs)
        if self._under_way >= self._max_waiting:
            raise LimitExceeded(
                f"{self._under_way} requests are under way, expected at most {self._max_waiting}; "
                "try again later",
                reason="QUEUE_FULL",
                retry_after=RETRY_AFTER,
            )
        self._under_way += 1
        counts = self.statistics[model.name]
        try:
            found = await self._answer(model, inputs, tuple(sorted(set(names.values()))), arrived)
        except Exception:
            counts.failed(time.perf_counter_ns() - arrived)
            raise
        finally:
            self._under_way -= 1
        total = time.perf_counter_ns() - arrived
        counts.succeeded(found.rows, total, found.waiting_ns, found.computing_ns)
        values = {asked: found.values[name] for asked, name in names.items()}
        return Answer(values, found.rows, found.waiting_ns, found.computing_ns)

    def close(self) -> None:
        """Take no more work."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _answer(self, model: Model, inputs: Arrays, outputs: tuple[str, ...], arrived: int) -> Answer:
        line = self._line(model, outputs)
        plan = line.plan.result() if line.plan.done() else await asyncio.shield(line.plan)
        used = {name: array for name, array in inputs.items() if name in plan.inputs}
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._enqueue(model, plan, line, _Request(used, rows_of(used), arrived, answer))
        return await answer

    def _line(self, model: Model, outputs: tuple[str, ...]) -> _Line:
        lines = self._lines.setdefault(model, OrderedDict())
        line = lines.pop(outputs, None)
        if line is None or (line.plan.done() and (line.plan.cancelled() or line.plan.exception())):
            wide, narrow = model.inference_sessions, self._narrow_sessions(model)
            loop = asyncio.get_running_loop()
            line = _Line(loop.run_in_executor(self._pool, lambda: Plan(wide, narrow, outputs)))
        lines[outputs] = line
        while len(lines) > PLANS:
            lines.popitem(last=False)
        return line

    def _narrow_sessions(self, model: Model) -> Sessions:
        """Sessions of a model that leave the other runners their share of the cores."""
        wide = model.inference_sessions
        cores = wide.threads or len(os.sched_getaffinity(0))
        if self._runners == 1 or cores == 1:
            return wide
        if model not in self._narrow:
            share = max(1, cores // self._runners)
            self._narrow[model] = wide.narrowed(share)
        return self._narrow[model]

    def _enqueue(self, model: Model, plan: Plan, line: _Line, request: _Request) -> None:
        key: object = request
        if plan.may_join and request.rows:
            shapes = sorted(
                (name, array.dtype.str, array.shape[1:]) for name, array in request.inputs.items()
            )
            key = (plan, tuple(shapes))
        queue = self._queues.setdefault(key, _Queue(model, plan, line.demand, line.pace))
        queue.requests.append(request)
        line.demand.arrive(request.rows)
        self._dispatch()

    def _dispatch(self) -> None:
        """Start what can be started, and set the alarm for what still waits for others."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        patience = 0.0
        while self._free > -self._runners and (ready := self._next()) is not None:
            key, patience = ready
            if self._free <= 0 and not self._is_full(self._queues[key]):
                return
            if patience > 0:
                self._alarm = asyncio.get_running_loop().call_later(patience, self._dispatch)
                return
            queue = self._queues.pop(key)
            self._start(queue, queue.take(self._size(queue)))
            if queue.requests:
                # Behind the others: they take turns.
                self._queues[key] = queue

    def _size(self, queue: _Queue) -> int:
        """How many rows the next run of a queue has at most."""
        return queue.pace.size(queue.rows, self.max_rows, queue.demand.together, self._runners)

    def _is_full(self, queue: _Queue) -> bool:
        """Whether a run would not grow by waiting on.

        It is then handed over while its runner is still busy, which has no need of the event loop to go on.
        """
        return not queue.plan.may_join or queue.rows >= self._size(queue)

    def _next(self) -> tuple[object, float] | None:
        """The queue whose turn it is, and the seconds for which it should still wait; None if none waits."""
        best: tuple[object, float] | None = None
        for key, queue in list(self._queues.items()):
            queue.prune()
            if not queue.requests:
                del self._queues[key]
                continue
            patience = self._patience(queue)
            if best is None or patience < best[1]:
                best = key, patience
            if patience <= 0:
                break
        return best

    def _patience(self, queue: _Queue) -> float:
        """Seconds for which it is worth waiting for others."""
        if not queue.plan.may_join or not queue.demand.missing:
            return 0.0
        if queue.rows >= min(self._size(queue), queue.demand.share(self._runners)):
            return 0.0
        waited = (time.perf_counter_ns() - queue.requests[0].arrived) / 1e9
        return min(self.max_delay, queue.demand.run_seconds * PATIENCE) - waited

    def _start(self, queue: _Queue, requests: list[_Request]) -> None:
        plan = queue.plan
        others = self._free < self._runners or queue.requests or self._queues or queue.demand.missing
        crowded = bool(others)

        def work() -> _Run:
            started = time.perf_counter_ns()
            try:
                outcomes = plan.run([request.inputs for request in requests], crowded=crowded)
            except Exception as error:
                outcomes = [error] * len(requests)
            return _Run(started, time.perf_counter_ns(), outcomes)

        def finish(run: _Run) -> None:
            self._free += 1
            self._settle(queue, requests, run)
            self._dispatch()

        loop = asyncio.get_running_loop()

        def tell(future: Future[_Run]) -> None:
            if future.cancelled():
                return
            run = future.result()
            # The loop is closed where the server ends in the middle of a run, for which then nobody waits.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, run)

        self._free -= 1
        # Not by the loop's own run_in_executor, which makes a future of it and chains the two.
        self._pool.submit(work).add_done_callback(tell)

    def _settle(self, queue: _Queue, requests: list[_Request], run: _Run) -> None:
        took = run.ended - run.started
        queue.demand.run_seconds = took / 1e9
        queue.pace.learn(sum(request.rows for request in requests), took / 1e9)
        if not all(isinstance(outcome, Exception) for outcome in run.outcomes):
            self.statistics[queue.model.name].ran(sum(request.rows for request in requests), took)
        for request, outcome in zip(requests, run.outcomes, strict=True):
            queue.demand.leave(request.rows)
            if request.answer.done():
                continue
            if isinstance(outcome, Exception):
                request.answer.set_exception(outcome)
            else:
                waited = run.started - request.arrived
                request.answer.set_result(Answer(outcome, request.rows, waited, took))
