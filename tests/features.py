"""What a test needs of the machine. Missing, it is said aloud; with ASYNCJOBS_REQUIRE=all it is a failure."""

from __future__ import annotations

import os

import pytest


def need(feature: str, present: object) -> None:
    """Skip the test unless *feature* is *present*; fail it where everything is required."""
    if present:
        return
    if os.environ.get("ASYNCJOBS_REQUIRE") == "all":
        pytest.fail(f"ASYNCJOBS_REQUIRE=all, but this machine lacks {feature}")
    pytest.skip(f"this machine lacks {feature}")


def need_memory_cgroup() -> None:
    need("a memory cgroup (version 1) to write to", os.access("/sys/fs/cgroup/memory/cgroup.procs", os.W_OK))


def need_root() -> None:
    need("root", os.geteuid() == 0)
