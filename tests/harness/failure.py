"""What a refused call was answered."""

from __future__ import annotations

from typing import Callable

import pytest
from botocore.exceptions import ClientError


def failure(call: Callable[..., object], **arguments: object) -> tuple[int, str]:
    """Status and S3 code of a call that must be refused."""
    with pytest.raises(ClientError) as caught:
        call(**arguments)
    answer = caught.value.response
    return answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Code"]
