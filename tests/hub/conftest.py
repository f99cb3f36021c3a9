"""Fixture: a hub of one's own."""

from tests.support.hub import hub

__all__ = ["hub"]
