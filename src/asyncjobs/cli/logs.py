"""Logs on stderr, unless the application has set up its own."""

from __future__ import annotations

import logging

from asyncjobs.cli.output import visible


class Plain(logging.Formatter):
    """A record begins at the margin, and nothing else does: what a job or a row says can forge no line, nor steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record)).replace("\n", "\n    ")


FORMAT = "%(asctime)s %(levelname)-8s %(name)s: %(message)s"


def log_to_stderr(level: int = logging.INFO, line: str = FORMAT) -> None:
    """Show what asyncjobs and the jobs log. Called after the application was imported: its own logging comes first."""
    if level != logging.INFO:
        logging.getLogger("asyncjobs").setLevel(level)
    if logging.getLogger().handlers or logging.getLogger("asyncjobs").handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(Plain(line))
    logging.basicConfig(level=level, handlers=[handler])
