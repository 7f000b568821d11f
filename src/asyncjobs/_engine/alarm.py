"""What a sleeping claimer is woken by, and how long it sleeps when it does not know what for."""

from __future__ import annotations

import asyncio


class Alarm:
    """Rung by whoever has something to do for the sleeper."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()  # not anyio's: set and cleared for every job
        self._pause = 0.0  #: how long the last wait in uncertainty was

    def ring(self) -> None:
        """Somebody has something to do."""
        self._rung.set()

    def silence(self) -> None:
        """All that is known by now is going to be done."""
        self._rung.clear()

    @property
    def is_ringing(self) -> bool:
        """It was rung since it was silenced."""
        return self._rung.is_set()

    def calm(self) -> None:
        """Something happened: waiting in uncertainty begins anew, with short pauses."""
        self._pause = 0.0

    def longer(self, first: float, most: float) -> float:
        """How many seconds to wait in uncertainty: each time twice as long as before."""
        self._pause = min(max(self._pause * 2, first), most)
        return self._pause

    async def wait(self, limit: float) -> bool:
        """Wait until it rings, at most *limit* seconds; whether it did."""
        if self._rung.is_set():
            return True
        loop = asyncio.get_running_loop()
        timer = loop.call_later(limit, self._rung.set)
        started = loop.time()
        try:
            await self._rung.wait()
        finally:
            timer.cancel()
        return loop.time() - started < limit
