"""A Postgres of our own, where none is at hand: for development, demos and tests.

Nothing here is ever chosen silently: who wants it constructs an `Embedded`.
"""

from __future__ import annotations

from asyncjobs.embedded.binaries import EmbeddedUnavailable
from asyncjobs.embedded.server import DEV_SETTINGS, TEST_SETTINGS, Embedded, default_dir

__all__ = ["DEV_SETTINGS", "TEST_SETTINGS", "Embedded", "EmbeddedUnavailable", "default_dir"]
