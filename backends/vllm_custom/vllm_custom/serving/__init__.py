"""The life of requests, and what a model is put together from."""
