"""What must be done now and then, whoever does it: every chore is harmless when two runners do it at once."""
