"""How it is kept: every SQL statement of asyncjobs, and nothing else.

One statement is one file below `sql/`, named like the function that runs it. The text is plain SQL with the schema
written out as `asyncjobs.`; `statements.py` puts another schema's name in. The same text with `$n` parameters runs on
asyncpg, on SQLAlchemy and on psycopg (`connection.py`).
"""
