"""Measurements of speed; README.md beside this file says how to run them and what came out."""
