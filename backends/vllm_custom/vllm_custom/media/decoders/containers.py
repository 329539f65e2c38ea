"""What FFmpeg may do with a file that a client sent: read it from memory, and nothing else.

By itself FFmpeg goes by content, and its formats include playlists and session descriptions (HLS, DASH, concat, SDP)
that make it read other files, connect to hosts, and open ports. Whoever opens a file names the formats and codecs too.
"""

from __future__ import annotations

OPEN_OPTIONS = {"protocol_whitelist": "none"}  # the empty list would mean all
