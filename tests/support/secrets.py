"""Secrets as clients and operators have them, and all the places of a request where a client may put one."""

from __future__ import annotations

import base64
import re
from typing import Any
from urllib.parse import quote

from tests.support.media_files import Files

# Each is found by these words, whatever is around it.
KEY, OTHER_KEY, WRONG_KEY = "sk-SECRETserved", "sk-SECREToption", "sk-SECRETwrong"
PASSWORD, SIGNATURE, TOKEN = "SECRETpassword", "SECRETsignature", "SECRETtoken"
COOKIE, HEADER, COLLECTOR, HUB = "SECRETcookie", "SECRETheader", "SECRETcollector", "hf_SECREThub"
SECRET = re.compile(r"SECRET\w*")
ENCODED = [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in (KEY, WRONG_KEY, PASSWORD, SIGNATURE)]
PROMPT = "a text that nobody is to read"


def redirects(port: int) -> dict[str, str]:
    """Path to location, for a server of media at ``port`` of 127.0.0.1."""
    credentials = f"alice:{PASSWORD}@127.0.0.1:{port}"
    return {
        "/to/credentials": f"http://{credentials}/0.png?X-Amz-Signature={SIGNATURE}",
        "/to/nowhere": f"/missing.png?token={TOKEN}",
        "/to/elsewhere": f"http://evil.test/{TOKEN}?sig={SIGNATURE}",
        "/to/malformed": f"http://[{PASSWORD}/?sig={SIGNATURE}",
        "/to/itself": f"/to/itself?sig={SIGNATURE}",
    }


def urls(files: Files) -> list[str]:
    """Of media, good and bad, each with something that nobody else is to know."""
    here = f"127.0.0.1:{files.port}"
    signed = f"X-Amz-Signature={SIGNATURE}&X-Amz-Security-Token={TOKEN}"
    return [
        f"http://{here}/0.png?{signed}",
        f"http://{here}/missing.png?{signed}",
        f"http://{here}/text.png?{signed}#access_token={TOKEN}",
        *(f"http://{here}{path}?{signed}" for path in files.locations),
        f"http://alice:{PASSWORD}@{here}/0.png?{signed}",
        f"https://{here}/0.png?{signed}",
        f"http://evil.test/0.png?{signed}",
        f"http://[alice:{PASSWORD}@{here}/0.png?{signed}",
        f"http:\\\\alice:{PASSWORD}@{here}\\0.png?{signed}",
        f"http://alice:{PASSWORD}@{here}:x/\x01?{signed}",
        f"s3://alice:{PASSWORD}@bucket/key?{signed}",
        f"file://alice:{PASSWORD}@host/0.png?{signed}",
        f"//alice:{PASSWORD}@{here}/0.png?{signed}",
        f"http://{here}/0.png?{quote(signed)}&{'x' * 9000}",
    ]


def bodies(url: str, model: str) -> list[dict[str, Any]]:
    """Of the OpenAI API: the URL where it belongs, and where it is wrong."""
    shapes: list[Any] = [{"url": url}, {"url": {"url": url}}, [url], url]
    parts: list[dict[str, Any]] = [{"type": "image_url", "image_url": shape} for shape in shapes]
    parts.append({"type": url, "image_url": {"url": url}})
    found: list[dict[str, Any]] = []
    for part in parts:
        message = {"role": "user", "content": [part, {"type": "text", "text": PROMPT}]}
        found.append({"model": model, "messages": [message], "max_tokens": 1})
    found.append({"model": model, "messages": url, "max_tokens": 1})
    found.append({"model": model, "messages": [{"role": "user", "content": "x"}], "temperature": url})
    return found


def found_in(text: str) -> list[str]:
    """Lines that give a secret away, shortened to what is around it."""
    places = [match.start() for match in SECRET.finditer(text)]
    places += [text.index(encoded) for encoded in ENCODED if encoded in text]
    return [text[max(0, place - 250) : place + 60] for place in places[:40]]
