"""Who this runner is to the database: its incarnation, which the keeper gives it and every claim is made under."""

from __future__ import annotations

import anyio


class Identity:
    """The current incarnation, or none while the keeper has lost the server."""

    def __init__(self) -> None:
        self.current: int | None = None
        self.latest: int | None = None  #: outlives the loss: whose claims there still are
        self._known = anyio.Event()
        self.doubted = anyio.Event()  #: the keeper is asked for a new incarnation

    async def known(self) -> int:
        """The incarnation, once there is one."""
        while self.current is None:
            await self._known.wait()
        return self.current

    def assume(self, incarnation: int) -> None:
        """From now on this runner is *incarnation*."""
        self.current = self.latest = incarnation
        self.doubted = anyio.Event()
        self._known.set()

    def doubt(self) -> None:
        """A claim's reply was lost with its connection: nothing more may be claimed under this incarnation."""
        self.lose()
        self.doubted.set()

    def lose(self) -> None:
        """The server, and with it the proof of life, is gone."""
        if self.current is not None:
            self.current = None
            self._known = anyio.Event()
