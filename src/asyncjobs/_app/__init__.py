"""`Jobs`: an application's jobs on one database. The only room that knows everybody.

`jobs.py` is settings, wired, and what runs; `outside.py` looks at jobs and queues and steers them; `given.py` reads what it was given, and
`bound.py` is a connection that is current.
"""

from asyncjobs._app.jobs import Jobs

__all__ = ["Jobs"]
