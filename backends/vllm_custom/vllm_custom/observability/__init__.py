"""Logs, and what they need."""
