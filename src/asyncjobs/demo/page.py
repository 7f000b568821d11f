"""The one page of the demo's application."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

_PAGE = Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8"><meta http-equiv="refresh" content="2">
<title>$done of $all exports</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 48rem; color: #222 }
  progress { width: 100% }
  ul { columns: 9rem; list-style: none; padding: 0 }
</style>
<h1>Stations of every country, exported</h1>
<label>$done of $all exports, $stations stations <progress max="$all" value="$done"></progress></label>
<ul>
$exports
</ul>
</html>
""")


def page(exports: Sequence[Mapping[str, Any]]) -> str:
    """*exports* with their progress; each that is done is a link to its CSV."""
    done = [export["stations"] for export in exports if export["stations"] is not None]
    return _PAGE.substitute(
        all=len(exports), done=len(done), stations=sum(done), exports="\n".join(map(_item, exports))
    )


def _item(export: Mapping[str, Any]) -> str:
    tenant, stations = escape(export["tenant"]), export["stations"]
    if stations is None:
        return f"<li>{tenant} …</li>"
    return f'<li><a href="/tenants/{tenant}/exports.csv">{tenant}</a> {stations}</li>'
