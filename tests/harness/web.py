"""Plain HTTP as browsers and scripts make it: any method, any headers, forms; nothing signed, nothing repeated."""

from __future__ import annotations

from dataclasses import dataclass

import urllib3

_POOL = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(60))


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def request(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Answer:
    reply = _POOL.request(method, url, body=body, headers=headers, redirect=False)
    return Answer(reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.data)


def post_form(url: str, fields: dict[str, str] | list[tuple[str, str]], file: bytes) -> Answer:
    """A form with its fields in order, and the file behind them."""
    pairs = list(fields.items() if isinstance(fields, dict) else fields)
    reply = _POOL.request("POST", url, fields=[*pairs, ("file", ("file", file))], redirect=False)
    return Answer(reply.status, {name.lower(): value for name, value in reply.headers.items()}, reply.data)
