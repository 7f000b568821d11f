"""What a Jobs puts around each of its runs: middleware, the context that came along, bounds. Nothing, as a rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from asyncjobs._engine.telling import MOST_TRACEBACK
from asyncjobs._enqueue.carried import Carried, carried_in, restored
from asyncjobs._enqueue.middleware import Layer


@attrs.frozen
class Around:
    """What is around each run."""

    middleware: Sequence[Layer] = ()
    carried: Mapping[str, Carried] = {}
    timeout: float | None = None  #: seconds no attempt may exceed, unless its kind may
    traceback_limit: int = MOST_TRACEBACK  #: characters of a traceback kept with a failed attempt

    def came_along(self, meta: str) -> dict[str, Any]:
        """What came along from where the job was enqueued and means something here, by name."""
        return carried_in(meta, self.carried)

    @contextmanager
    def restored(self, came: Mapping[str, Any]) -> Iterator[None]:
        """Within it, the context is as it came along."""
        with restored(came, self.carried):
            yield


NOTHING_AROUND = Around()
