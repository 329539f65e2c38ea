"""Triton's objects: requests in, responses out, metrics. The only package that touches them."""
