"""What asyncio and the interpreter leave to their users: helpers, tuning of the process, single flight.

These modules import nothing of this package.
"""
