"""Read by Python at its start where PYTHONPATH leads here: every name under granary.test is this machine."""

import socket

_lookup = socket.getaddrinfo


def getaddrinfo(host, *arguments, **more):
    name = host.decode() if isinstance(host, bytes) else host
    return _lookup("127.0.0.1" if name and name.endswith(".granary.test") else host, *arguments, **more)


socket.getaddrinfo = getaddrinfo
