"""Helpers that several tests share: fakes, servers, and media to send."""
