"""Measurements of speed; README.md next to this file says how to run them and what came out."""
