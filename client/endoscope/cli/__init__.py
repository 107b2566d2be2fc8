"""The command line: ``endoscope COMMAND``.

Exit codes: 0 if all went well, 1 for an error of the server or of what was asked for, 2 for a command that
can't be, 3 if no server answers, 130 after Ctrl-C, which cancels the job.

Completion: ``eval "$(_ENDOSCOPE_COMPLETE=bash_source endoscope)"``, or ``zsh_source``, or ``fish_source``.
"""

from endoscope.cli.root import main

__all__ = ["main"]
