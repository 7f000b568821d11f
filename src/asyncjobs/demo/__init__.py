"""The first five minutes: a real web application, its jobs, and a Postgres that is thrown away afterwards.

`app.py` and `exports.py` are what you would write; the rest plays its users and checks its work.
"""

from __future__ import annotations

import sys


def run(*, once: bool = False, spoil: str | None = None, port: int = 0) -> int:
    """Play the demo; the exit code it ends with: 0 when every export is right.

    With *once* it ends when the work is done, else when it is interrupted. *spoil* names the tenant whose export is
    made to fail. *port* is the web server's, on 127.0.0.1; 0 takes any that is free.
    """
    try:
        from asyncjobs.demo.play import play  # noqa: PLC0415 -- what it needs is an extra
    except ModuleNotFoundError as missing:
        print(f"the demo needs {missing.name}: pip install 'asyncjobs-pg[demo]'", file=sys.stderr)
        return 2
    return play(once=once, spoil=spoil, port=port)
