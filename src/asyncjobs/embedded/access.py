"""Who may enter the embedded server: on its socket its owner and root, as the kernel knows them; over TCP, who has the password.

There is no password on the socket, so none can leak: not in a DSN, a log or the list of processes
(docs/decisions/0005-peer.md). The rules are data/pg_hba.conf and pg_ident.conf, so that a copy of the data has them too.
"""

from __future__ import annotations

import os
from pathlib import Path

from asyncjobs.embedded import watch

MARK = "# Written by asyncjobs"

HBA = f"""{MARK} once; what you change here stays.
# By the socket: who the kernel says he is, translated by pg_ident.conf.
local  all          all                peer map=asyncjobs
local  replication  all                peer map=asyncjobs
# By TCP, which is closed unless a port was asked for: who has the password.
host   all          all  127.0.0.1/32  scram-sha-256
host   all          all  ::1/128       scram-sha-256
"""

IDENT_HEAD = f"""{MARK} at each start.
# Who uses this folder: its owner, root, and who started the server.
"""


def write_rules(data: Path, superuser: str, *, every_role: bool) -> None:
    """Replace the rules in *data* unless they are ours. Those of an older asyncjobs trusted whoever reached the socket."""
    hba = data / "pg_hba.conf"
    if not hba.exists() or not hba.read_text(errors="replace").startswith(MARK):
        if hba.exists():
            hba.replace(data / "pg_hba.conf.before")
        _write(hba, HBA)
    role = "all" if every_role else superuser
    users = dict.fromkeys(filter(None, map(_name_of, (data.stat().st_uid, 0, os.geteuid()))))
    _write(data / "pg_ident.conf", IDENT_HEAD + "".join(f'asyncjobs  "{user}"  {role}\n' for user in users))


def _name_of(uid: int) -> str | None:
    import pwd  # noqa: PLC0415 - there is none on Windows, where this package must still explain itself

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # then Postgres cannot run as him either, and says so
        return None


def _write(file: Path, text: str) -> None:
    """All of it or nothing, for who owns the folder."""
    part = file.with_name(f"{file.name}.new")
    part.unlink(missing_ok=True)
    with open(watch.open_private(part), "w") as new:  # noqa: PTH123 - a descriptor, not a path
        new.write(text)
    part.replace(file)
