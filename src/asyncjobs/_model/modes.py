"""How a runner works with its database: what a probe found to work there, or what was said by hand."""

from __future__ import annotations

from typing import Literal

import attrs


@attrs.frozen
class Modes:
    """What a runner relies on.

    *liveness*: what proves it alive, its session's lock or its lease alone. *wake*: whether it is told of jobs, or looks for
    them. *why*: what was found, in words.
    """

    liveness: Literal["lock", "lease"] = "lock"
    wake: Literal["notify", "poll"] = "notify"
    why: str = attrs.field(default="said by hand", eq=False)

    @property
    def locks(self) -> bool:
        """Whether a lock proves it alive."""
        return self.liveness == "lock"

    @property
    def hears(self) -> bool:
        """Whether it is told of jobs."""
        return self.wake == "notify"

    def __str__(self) -> str:
        return f"liveness {self.liveness}, wake {self.wake} ({self.why})"


def modes_by_hand(listen: bool | None) -> Modes | None:
    """What *listen* prescribes; None leaves it to the probe."""
    if listen is None:
        return None
    return Modes() if listen else Modes("lease", "poll")
