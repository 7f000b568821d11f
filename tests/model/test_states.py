"""The life of a job is one table, and the table makes sense."""

from asyncjobs import JobState
from asyncjobs._model.states import FINAL, TRANSITIONS, FinalState, LiveState

FIRST = {JobState.AVAILABLE, JobState.SCHEDULED, JobState.BLOCKED}
"""As what a job may be enqueued."""


def test_every_state_has_its_transitions() -> None:
    """The table speaks of each state, and of nothing else."""
    assert set(TRANSITIONS) == set(JobState)
    assert {state for after in TRANSITIONS.values() for state in after} <= set(JobState)


def test_every_state_can_be_reached() -> None:
    """From enqueuing, a job can come to stand anywhere."""
    reached, frontier = set(FIRST), list(FIRST)
    while frontier:
        for state in TRANSITIONS[frontier.pop()] - reached:
            reached.add(state)
            frontier.append(state)
    assert reached == set(JobState)


def test_every_job_can_become_final() -> None:
    """From wherever it stands there is a way to an end: no state is a trap."""
    ending = set(FINAL)
    while True:
        more = {state for state, after in TRANSITIONS.items() if after & ending} - ending
        if not more:
            break
        ending |= more
    assert ending == set(JobState)


def test_a_final_state_is_left_only_by_retry() -> None:
    """What is final stays, unless somebody has it run again; or is done with a job that was kept for that decision."""
    assert {state: TRANSITIONS[state] for state in FINAL} == {
        **dict.fromkeys(FINAL, frozenset({JobState.AVAILABLE})),
        JobState.FAILED: frozenset({JobState.AVAILABLE, JobState.CANCELLED}),
    }


def test_only_what_runs_completes_fails_or_is_skipped() -> None:
    """Only cancelling ends a job that nobody runs."""
    ends = FINAL - {JobState.CANCELLED}
    assert {state for state, after in TRANSITIONS.items() if after & ends} == {JobState.RUNNING}


def test_the_last_four_are_final() -> None:
    """As the words say them: completed, skipped, cancelled, failed."""
    assert [state.is_final for state in JobState] == [False] * 5 + [True] * 4
    assert list(JobState)[-4:] == ["completed", "skipped", "cancelled", "failed"]


def test_what_is_stored_can_be_said() -> None:
    """Each stored final state has the word people see."""
    assert {state.public for state in FinalState} == FINAL
    assert not set(LiveState) & set(FinalState)


async def test_the_table_says_what_the_database_does(dsn: str) -> None:
    """Every final state can be left by `retry`, and a running job cannot."""
    import asyncpg

    from asyncjobs import Jobs

    async with Jobs(dsn) as jobs:
        connection = await asyncpg.connect(dsn)
        try:
            for number, state in enumerate(FinalState, 1):
                await connection.execute(
                    "insert into asyncjobs.finished_jobs (id, finished_at, created_at, scheduled_at, token, priority, attempt, "
                    "max_attempts, crashes, state, queue, kind, args) "
                    "values ($1, now(), now(), now(), 0, 0, 1, 1, 0, $2, 'q', 'k', '{}')",
                    number,
                    int(state),
                )
                assert await jobs.handle(number).status() is state.public
                assert await jobs.retry(number) is (JobState.AVAILABLE in TRANSITIONS[state.public])
                assert await jobs.handle(number).status() is JobState.AVAILABLE
            await connection.execute("update asyncjobs.live_jobs set runner = 1 where id = 1")
            assert await jobs.handle(1).status() is JobState.RUNNING
            assert not await jobs.retry(1)
        finally:
            await connection.close()
