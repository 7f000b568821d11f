"""What is secret is said nowhere: a canary goes in everywhere, and is looked for in all that comes out."""

from __future__ import annotations

import traceback

import pytest

from asyncjobs import Jobs
from asyncjobs.errors import JobsError

CANARY = "c4n4ry-s3cr3t"

WRONG_DSNS = [
    "postgresql://u:{}@127.0.0.1:1/db",
    "postgresql+asyncpg://u:{}@127.0.0.1:1/db",
    "postgresql://u@127.0.0.1:1/db?password={}",
    "postgresql://u@127.0.0.1:1/db?sslmode=nonsense&password={}",
    # Passwords as generators make them, not percent-encoded.
    "postgresql://u:{}?x@127.0.0.1:1/db",
    "postgresql://u:12?{}@127.0.0.1:1/db",
    "postgresql://u:{}/x@127.0.0.1:1/db",
    "postgresql://u:12/{}@127.0.0.1:1/db",
    "postgresql://u:{}#x@127.0.0.1:1/db",
    "postgresql://u:x#{}@127.0.0.1:1/db",
    "postgresql://u:x@{}@127.0.0.1:1/db",
    "postgresql://u:[{}@127.0.0.1:1/db",
    "postgresql://u:%zz{}@127.0.0.1:1/db",
    "postgresql://u:x:{}@127.0.0.1:1/db",
    "postgresql://u:{}@127.0.0.1:port/db",
    # Not an address at all.
    "host=127.0.0.1 password={}",
    "u:{}@127.0.0.1/db",
    "mysql://u:{}@127.0.0.1/db",
    "{}",
]


def all_of(error: BaseException) -> str:
    """Whatever of *error* a log would show."""
    return f"{error!r}\n{''.join(traceback.format_exception(error))}"


@pytest.mark.security("SEC-S6")
@pytest.mark.parametrize("template", WRONG_DSNS)
async def test_no_password_is_in_a_repr_or_an_error(template: str) -> None:
    """However a DSN is wrong, neither the Jobs nor the error shows its password, nor half of it."""
    said = []
    with pytest.raises(JobsError) as caught:  # noqa: PT012
        jobs = Jobs(template.format(CANARY))
        said.append(repr(jobs))
        async with jobs:
            await jobs.count_jobs()
    said.append(all_of(caught.value))
    assert CANARY not in "\n".join(said)
