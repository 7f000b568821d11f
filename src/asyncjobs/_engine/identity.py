"""Who this runner is to the database: its incarnation, which the keeper gives it and every claim is made under.

The keeper lives in a thread of its own. What it *loses* is seen by the engine at once, in the middle of anything; what comes
next is *assumed* on the engine's own loop, after everything the keeper has told before. A loss in between wins.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import anyio

from asyncjobs._model.modes import Modes


class Identity:
    """The current incarnation, or none while the keeper has lost the server."""

    def __init__(self) -> None:
        self.current: int | None = None
        self.latest: int | None = None  #: outlives the loss: whose claims there still are
        self.modes = Modes()  #: what works with the server it is known to
        self.losses = 0  #: rises with each loss
        self.on_doubt: Callable[[], None] = lambda: (
            None
        )  #: asks the keeper for a new incarnation, from any thread
        self._known = anyio.Event()
        self._one_at_a_time = threading.Lock()

    async def known(self) -> int:
        """The incarnation, once there is one. On the engine's loop, as everything but losing and doubting."""
        while (incarnation := self.current) is None:
            await self._known.wait()
        return incarnation

    def assume(self, incarnation: int, losses: int | None = None) -> None:
        """From now on this runner is *incarnation*, unless it was lost again since there had been *losses*."""
        with self._one_at_a_time:
            self.latest = incarnation
            if losses not in (None, self.losses):
                return
            self.current = incarnation
        self._known.set()
        self._known = anyio.Event()

    def hold(self, incarnation: int, enter: Callable[[], None]) -> bool:
        """*enter* claims made under *incarnation* among those this runner answers for, if it is that one still.

        Nobody can lose it in between: what is not entered by the time it is lost, is never entered under it.
        """
        with self._one_at_a_time:
            if self.current != incarnation:
                return False
            enter()
        return True

    def doubt(self) -> None:
        """A claim's reply was lost with its connection: nothing more may be claimed under this incarnation."""
        self.lose()
        self.on_doubt()

    def lose(self) -> None:
        """The server, and with it the proof of life, is gone."""
        with self._one_at_a_time:
            self.current = None
            self.losses += 1
