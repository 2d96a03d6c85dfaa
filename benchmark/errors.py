"""Errors that the command line turns into exit codes."""

import errno


class BadInput(Exception):
    """A user's mistake: one clear line, exit code 2."""


class NoProbe(Exception):
    """Nothing can be measured: the hardware that will do the work is not here."""


class Stopped(KeyboardInterrupt):
    """The work was asked to stop, as before the end of a cluster job. `kept`: a checkpoint of this
    very moment was written, so nothing is lost."""

    def __init__(self, kept: bool) -> None:
        self.kept = kept
        super().__init__("stopped" if kept else "stopped where there is no checkpoint")


def never() -> bool:
    """No reason to stop."""
    return False


def is_full(error: BaseException) -> bool:
    """Whether no room was left on the disk, or within the quota."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
