"""Which failure modes there are, which tests cover them, and the page that says so: `python -m tests.catalogue`."""
