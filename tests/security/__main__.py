"""`python -m tests.security`: write the rules into SECURITY.md."""

from tests.security.rules import write

write()
