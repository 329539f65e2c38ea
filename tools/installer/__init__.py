"""What build.py does, one job per module. Runs on a bare Python 3.10 or later: standard library only."""
