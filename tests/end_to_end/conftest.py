"""The server that the tests of this level share (tests/support/server_fixtures.py)."""

from tests.support.server_fixtures import client, load, repository, shapes_vl, triton

__all__ = ["client", "load", "repository", "shapes_vl", "triton"]
