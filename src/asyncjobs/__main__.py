"""`python -m asyncjobs`; installed, the same as `asyncjobs`."""

from __future__ import annotations

from asyncjobs.cli.main import main

if __name__ == "__main__":
    main()
