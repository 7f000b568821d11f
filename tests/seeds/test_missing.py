"""A source of truth that is gone: there is nothing to do, and the job says so."""

from __future__ import annotations

import attrs
import pytest

from asyncjobs import Dependency, Jobs, JobSkipped, JobState, Later, Missing, current_job, job
from tests.kinds import forgotten


@attrs.frozen
class User:
    name: str


users = {1: User("ada")}


@pytest.mark.seed("T11")
@pytest.mark.parametrize("optional", [False, True])
async def test_a_loader_that_finds_nothing_skips_the_job(dsn: str, optional: bool) -> None:
    """T11 missing record ⇒ discard, recorded as `skipped: source missing`.

    The loader knows which record by the job's inputs. A dependency that may be None is passed None.
    """

    async def load_user() -> User | None:
        return users.get(current_job().args["user_id"])

    with forgotten():
        runs: list[int] = []

        if optional:

            @job(kind="seeds.greets")
            async def greets(user_id: int, user: Dependency[User | None] = None) -> str:
                runs.append(user_id)
                return user.name if user else "nobody"

        else:

            @job(kind="seeds.greets")
            async def greets(user_id: int, user: Dependency[User]) -> str:
                runs.append(user_id)
                return user.name

        async with Jobs(dsn, provide={User: load_user}).running():
            assert await (await greets.later(1)).result(timeout=10) == "ada"
            gone = await greets.later(2)
            if optional:
                assert await gone.result(timeout=10) == "nobody"
                return
            with pytest.raises(
                JobSkipped, match=r"skipped: Missing: greets\(\) needs 'user', and what provides .*User"
            ):
                await gone.result(timeout=10)
            stored = await gone.job()
            assert (stored.state, stored.attempt, runs) == (JobState.SKIPPED, 1, [1])
            assert stored.errors[0].error.startswith("Missing: greets() needs 'user'")
            assert stored.errors[0].traceback is None


@attrs.frozen
class Charges(Later, kind="seeds.Charges"):
    where: str

    async def needed(self) -> bool:
        self._look("needed")
        return True

    def _look(self, where: str) -> None:
        if where == self.where:
            raise Missing(f"invoice 7 is gone, says {where}")

    async def call(self) -> None:
        if current_job().attempt == 1 and self.where == "at the second attempt":
            raise OSError("the database is away")
        self._look("call")
        self._look("at the second attempt")


@pytest.mark.seed("T11")
@pytest.mark.parametrize("where", ["needed", "call"])
async def test_missing_may_be_raised_anywhere_in_the_job(running: Jobs, where: str) -> None:
    """T11 missing record ⇒ … not 25 retries: in `needed`, in the job, in what it calls."""
    handle = await Charges(where).later("call")
    with pytest.raises(JobSkipped, match=f"was skipped: Missing: invoice 7 is gone, says {where}"):
        await handle.result(timeout=10)
    assert (await handle.job()).attempt == 1


@pytest.mark.seed("T12")
async def test_an_older_error_is_no_reason_to_skip(running: Jobs) -> None:
    """T12 false ⇒ state `skipped`: the reason told is the last attempt's."""

    @attrs.frozen
    class OnceNeeded(Later, kind="seeds.OnceNeeded", backoff=0.01):
        async def needed(self) -> bool:
            return current_job().attempt == 1

        async def call(self) -> None:
            raise OSError("the first attempt failed")

    handle = await OnceNeeded().later("call")
    with pytest.raises(JobSkipped, match="was skipped: there was nothing left to do"):
        await handle.result(timeout=10)
    assert len((await handle.job()).errors) == 1


@attrs.frozen
class LooksFirst(Later, kind="seeds.LooksFirst"):
    async def needed(self) -> bool:
        async with current_job().transaction() as db:
            return bool(await db.fetchval("select not exists (select from seen)"))

    async def call(self) -> None:
        async with current_job().transaction() as db:
            await db.execute("insert into seen values (1)")


@pytest.mark.seed("T12")
async def test_needed_sees_what_is_committed(running: Jobs) -> None:
    """T12 `needed?`: async predicate evaluated before work, same transaction snapshot as work if possible: what it sees is what
    another job has committed, in a transaction of its own, as the work begins its own when it likes."""
    async with running.connection() as connection:
        await connection.execute("create table seen (n int)")
    await (await LooksFirst().later("call")).result(timeout=10)
    with pytest.raises(JobSkipped):
        await (await LooksFirst().later("call")).result(timeout=10)
