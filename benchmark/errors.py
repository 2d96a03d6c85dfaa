"""Errors that the command line turns into exit codes."""

import errno


class BadInput(Exception):
    """A user's mistake: one clear line, exit code 2."""


def is_full(error: BaseException) -> bool:
    """Whether no room was left on the disk, or within the quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
