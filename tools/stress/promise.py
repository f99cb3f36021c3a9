"""What the checks have in common: a promise that was not kept, and how long to wait for one."""

PATIENCE = 900.0  # seconds, after which something hangs; a busy machine takes its time


class CheckError(Exception):
    """A promise that was not kept."""
