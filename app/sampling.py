"""Samples an external system: the light worker's loop around `services.external`.

Requests run side by side in one event loop; everything that is stored is stored between them, in
short transactions under the claim's token. Cancelling is a state in the row: the next write finds
that the claim is gone, and what is under way is dropped.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Collection
from typing import Final

import httpx
import structlog

from app.db import task_session
from app.services.external import endpoint, queue
from app.services.external.pacing import LONGEST_WAIT, Pacing
from app.services.external.queue import Claim, Wanted

BEAT_SECONDS = 1.0
TRIES: Final = 5  # of one prompt at an endpoint that answers others
UNUSABLE: Final = 20  # answers in a row that are no completions: the next would be none either
AHEAD: Final = 32  # requests that are fetched at a time

log = structlog.get_logger()
Task = asyncio.Task[endpoint.Answer]


def sample_system(sampling_id: int, stopping: threading.Event) -> None:
    """Go on with sampling N if it is due, until all is answered or the worker is to stop."""
    with task_session() as session:
        claim = queue.claim(session, sampling_id)
    if claim is None:
        return
    try:
        asyncio.run(_Sampler(claim, stopping).run())
    except queue.SamplingGone:
        log.info("sampling was taken over or cancelled", sampling=sampling_id)


class _Sampler:
    def __init__(self, claim: Claim, stopping: threading.Event) -> None:
        self._claim = claim
        self._stopping = stopping
        self._pacing = Pacing(claim.settings.per_minute)
        self._ahead: deque[Wanted] = deque()
        self._under_way: dict[Task, tuple[Wanted, float]] = {}
        self._unusable = 0  # answers in a row
        self._beaten = time.monotonic()
        self._last_problem = ""

    async def run(self) -> None:
        """Raises SamplingGone."""
        async with endpoint.client() as http:
            try:
                error = await self._ask_for_all(http)
            finally:
                for task in self._under_way:
                    task.cancel()
                await asyncio.gather(*self._under_way, return_exceptions=True)
        with task_session() as session:
            if error is not None:
                log.warning("sampling failed", sampling=self._claim.sampling_id, error=error)
                queue.fail(session, self._claim, error)
            elif self._stopping.is_set():
                queue.release(session, self._claim)
            else:
                queue.finish(session, self._claim)

    async def _ask_for_all(self, http: httpx.AsyncClient) -> str | None:
        """Until nothing waits, or the worker is to stop; or why it is no use to go on."""
        while not self._stopping.is_set():
            self._beat()
            wait = self._send(http)
            if not self._under_way and not self._ahead:
                return None
            wait = min(BEAT_SECONDS, max(wait, 0.01))
            if not self._under_way:
                await asyncio.sleep(wait)
                continue
            full = len(self._under_way) >= self._claim.settings.at_a_time
            done, _ = await asyncio.wait(
                self._under_way,
                timeout=BEAT_SECONDS if full or not self._ahead else wait,
                return_when=asyncio.FIRST_COMPLETED,
            )
            error = self._settle(done)
            if error is not None:
                return error
        return None

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._beaten < BEAT_SECONDS:
            return
        self._beaten = now
        pause = self._pacing.paused(now)
        note = f"Asks again in {pause:.0f} s. {self._last_problem}" if pause >= 1 else None
        with task_session() as session:
            queue.beat(session, self._claim, note=note)

    def _send(self, http: httpx.AsyncClient) -> float:
        """Send what may be sent now. Returns the seconds until the next may be."""
        settings = self._claim.settings
        while len(self._under_way) < settings.at_a_time:
            if not self._ahead:
                self._fetch()
            now = time.monotonic()
            wait = self._pacing.wait(now)
            if not self._ahead or wait > 0:
                return wait
            wanted = self._ahead.popleft()
            asking = endpoint.ask(http, settings, wanted.prompt, sample_index=wanted.sample_index)
            self._under_way[asyncio.create_task(asking)] = (wanted, now)
            self._pacing.started(now)
        return BEAT_SECONDS

    def _fetch(self) -> None:
        under_way = [wanted.request_id for wanted, _ in self._under_way.values()]
        with task_session() as session:
            self._ahead.extend(queue.next_requests(session, self._claim, AHEAD, without=under_way))

    def _settle(self, done: Collection[Task]) -> str | None:
        """Store what came; why it is no use to go on, if it is none."""
        answers: list[tuple[int, endpoint.Answer]] = []
        problems: list[tuple[int, str]] = []
        again: list[int] = []
        error: str | None = None
        for task in done:
            wanted, started = self._under_way.pop(task)
            try:
                answers.append((wanted.request_id, task.result()))
            except endpoint.Unusable as problem:
                problems.append((wanted.request_id, str(problem)))
                self._pacing.succeeded()
                self._unusable += 1
                if self._unusable >= UNUSABLE:
                    error = f"{UNUSABLE} answers in a row could not be used. The last: {problem}"
            except endpoint.Busy as problem:
                self._last_problem = str(problem)
                error = error or self._put_off(wanted, started, problem, problems, again)
            except endpoint.Refused as problem:
                error = str(problem)
            else:
                self._pacing.succeeded()
                self._unusable = 0
        if answers or problems or again:
            with task_session() as session:
                queue.store(session, self._claim, answers=answers, problems=problems, again=again)
        return error

    def _put_off(
        self,
        wanted: Wanted,
        started: float,
        problem: endpoint.Busy,
        problems: list[tuple[int, str]],
        again: list[int],
    ) -> str | None:
        """Ask later, this prompt or the whole endpoint; why not, if that is no use."""
        if problem.of_prompt:
            if wanted.tries + 1 >= TRIES:
                problems.append((wanted.request_id, f"{problem} Tried {TRIES} times."))
            else:
                again.append(wanted.request_id)
        if self._pacing.failed(started, time.monotonic(), problem.retry_after):
            return None
        if (problem.retry_after or 0.0) > LONGEST_WAIT:
            minutes = (problem.retry_after or 0.0) / 60
            return f"{problem} It asks to wait {minutes:,.0f} minutes: retry after that."
        return f"{problem} It was so {self._pacing.failures} times in a row; nothing else came."
