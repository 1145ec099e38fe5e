"""What every end-to-end test uses: a server that can be started, killed and restarted, and clients for it."""

from . import web
from .server import ACCESS_KEY, REGION, SECRET_KEY, Server, ServerFailed, find_binary, scratch_dir
from .clients import boto3_client, client_env
from .content import Content
from .raw import RawClient, Reply, S3Failure

__all__ = [
    "ACCESS_KEY",
    "REGION",
    "SECRET_KEY",
    "Content",
    "RawClient",
    "Reply",
    "S3Failure",
    "Server",
    "ServerFailed",
    "boto3_client",
    "client_env",
    "find_binary",
    "scratch_dir",
    "web",
]
