"""The contract with clients and operators: each tensor, parameter and limit is declared here, once.

It imports nothing: auto-completion, which has a process of its own, needs the tensors only.
"""
