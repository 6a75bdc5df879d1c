"""Work in the background is bounded: few threads, few that wait, and what nobody asks for any more goes first."""

import threading
from typing import Any

from eval.view import jobs
from eval.view.jobs import DROPPED, FAILED, READY, Jobs, Progress


def test_what_waits_is_bounded_and_what_was_asked_for_least_recently_is_dropped_with_a_word() -> None:
    before, going, begun = threading.active_count(), threading.Event(), threading.Semaphore(0)
    ran: list[int] = []

    def compute_of(number: int) -> Any:
        def compute(progress: Progress) -> tuple[int, int]:
            begun.release()
            going.wait()
            ran.append(number)
            return number, 0

        return compute

    work = Jobs(2**20)
    waiting = jobs.AT_ONCE
    first = [work.start(number, compute_of(number)) for number in range(waiting)]
    for _ in first:
        begun.acquire()
    first += [work.start(number, compute_of(number)) for number in range(waiting, waiting + jobs.WAITING)]
    work.start(waiting, compute_of(waiting))  # asked for again
    for number in range(100, 150):
        work.start(waiting, compute_of(waiting))
        work.start(number, compute_of(number))
    assert threading.active_count() - before == jobs.AT_ONCE
    dropped = first[waiting + 1]
    assert (dropped.state, dropped.error) == (FAILED, DROPPED)
    going.set()
    first[waiting].done.wait()
    assert (first[waiting].state, first[waiting].result) == (READY, waiting)
    work.wait()
    assert len(ran) == jobs.AT_ONCE + jobs.WAITING
    assert len(work._jobs) <= jobs.KEPT + 1


def test_what_waits_is_given_up_when_the_cache_is_another() -> None:
    going = threading.Event()

    def compute(progress: Progress) -> tuple[None, int]:
        going.wait()
        return None, 0

    work = Jobs(2**20)
    started = [work.start(number, compute) for number in range(jobs.AT_ONCE + 2)]
    work.forget()
    going.set()
    for job in started:
        job.done.wait()
    assert [job.state for job in started[jobs.AT_ONCE + 1 :]] == [FAILED]
