"""Logs on stderr, unless the application has set up its own."""

from __future__ import annotations

import logging


def log_to_stderr(level: int = logging.INFO) -> None:
    """Show what asyncjobs and the jobs log. Called after the application was imported: its own logging comes first."""
    if level < logging.INFO:
        logging.getLogger("asyncjobs").setLevel(level)
    if logging.getLogger().handlers or logging.getLogger("asyncjobs").handlers:
        return
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)-8s %(name)s: %(message)s")
