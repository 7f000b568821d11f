"""Write docs/failure-modes.md and say the counts; with --check, fail when it is not as it would be written."""

from __future__ import annotations

import sys

from tests.catalogue.page import PAGE, counts, page

if sys.argv[1:] == ["--check"]:
    if not PAGE.exists() or PAGE.read_text() != page():
        sys.exit(f"{PAGE.name} is stale: python -m tests.catalogue")
else:
    PAGE.write_text(page())
    print("{tested} tested, {cannot} cannot happen, {open} open".format(**counts()))
