"""The command line: a door on top of the house. It has no powers of its own; each verb is what `Jobs` can do.

`main.py` is the command, `exits.py` what it ends with, `target.py` and `loading.py` find the Jobs that is meant, `output.py`
is for people and machines, `words.py` and `calls.py` turn words into inputs and calls; the rest are the verbs.
"""
