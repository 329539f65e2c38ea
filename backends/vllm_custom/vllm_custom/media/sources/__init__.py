"""Where the bytes of media come from: the request itself, a URL, a file below one folder; and what is allowed."""
