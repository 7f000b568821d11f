"""What `--help` shows below: examples, and what the exit codes mean."""

from __future__ import annotations

AS_IT_IS = "\b"  #: click's mark of a paragraph whose lines stay lines

EXIT_CODES = f"""{AS_IT_IS}
Exit codes:
  0  done
  1  failed: the job failed, was cancelled or skipped, or what was asked is refused
  2  not understood: options, inputs, or an APP that cannot be imported
  3  not found: no such job, no such kind
  4  no database to work with: out of reach, or without the schema this version needs
  130  interrupted"""


def examples(*lines: str) -> str:
    """Examples of a verb; each is a whole command, but for `python -m asyncjobs` where it begins with the verb."""
    commands = [line if line.startswith("ASYNCJOBS_") else f"python -m asyncjobs {line}" for line in lines]
    return "\n".join(
        [AS_IT_IS, f"Example{'s' * (len(lines) > 1)}:", *(f"  {command}" for command in commands)]
    )
