"""End the process when its time is up, whatever threads the jobs have left behind."""

from __future__ import annotations

import logging
import os
import sys
import threading
from contextlib import suppress

from asyncjobs._engine.threads import threads_in_use

GRACE = 5.0
"""Seconds for the interpreter to end by itself, exit handlers and all, once the runner has stopped."""


def end_in_time(code: int) -> None:
    """See to it that the process ends: now, while a sync job's thread is in use, else within GRACE.

    A sync job cannot be stopped, and an interpreter that ends under a running thread may crash or hang; so it does not
    get to. Its job was not handed back, and is run again by whoever finds this process gone.
    """
    watchdog = threading.Timer(GRACE, _end, (code,))  # for threads that are not ours, as asyncio.to_thread's
    watchdog.daemon = True
    watchdog.start()
    for thread in threads_in_use():
        thread.join(0.05)  # it may have just been about to end
    if threads_in_use():
        for flush in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
            with suppress(Exception):
                flush()
        _end(code)


def _end(code: int) -> None:
    os._exit(code)
