"""`s3://BUCKET/PREFIX/`: the https addresses of what lies there.

Public buckets have them anyway. For private ones boto3, where it is installed, signs an address that is good for some
hours; it fetches nothing. Credentials are looked for as AWS's own tools do, and another store (MinIO, R2, Ceph) is
named, as for them, by AWS_ENDPOINT_URL.
"""

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any
from urllib.parse import quote

from bricscli.errors import DataError

#: Seconds for which a signed address is good: for all connections that one file takes.
_GOOD_FOR = 12 * 3600
_PLACE = re.compile(r"(?i:s3)://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/([^\\?#\x00-\x1f\x7f]*))?")
_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
                "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI")


def bucket_addresses(where: str) -> Callable[[str], str]:
    """name -> the address to ask for the file of that name under `where`, signed where there are credentials.

    Raises DataError where `where` is no bucket, where credentials are set and boto3 is not there, and where it cannot
    sign.
    """
    match = _PLACE.fullmatch(where)
    if match is None:
        raise DataError(f"{where}: is no bucket. Write s3://BUCKET/PREFIX/, the bucket in small letters.")
    bucket, prefix = match[1], match[2] or ""
    folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    client = _signing_client(where, bucket, endpoint)
    if client is None:
        base = _public_base(bucket, endpoint)
        return lambda name: f"{base}/{quote(folder + name)}"

    def sign(name: str) -> str:
        with _signing(where):
            return str(client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": folder + name},
                                                     ExpiresIn=_GOOD_FOR))

    return sign


def _public_base(bucket: str, endpoint: str | None) -> str:
    region = _region()
    host = f"s3.{region}.amazonaws.com" if region else "s3.amazonaws.com"
    if endpoint:
        return f"{endpoint.rstrip('/')}/{bucket}"
    # The certificate is for one name below the host: no dots.
    return f"https://{host}/{bucket}" if "." in bucket else f"https://{bucket}.{host}"


def _region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def _signing_client(where: str, bucket: str, endpoint: str | None) -> Any:
    """None where there are no credentials: the bucket is public then, or refuses."""
    if find_spec("boto3") is None:
        given = next((name for name in _CREDENTIALS if os.environ.get(name)), None)
        if given:
            raise DataError(f"{where}: {given} is set, but boto3, which signs addresses of private buckets, is not "
                            f"installed. pip install 'brics[s3]', or unset {given} if the bucket is public.")
        return None
    import boto3  # type: ignore
    from botocore.config import Config  # type: ignore

    with _signing(where):
        session = boto3.Session()
        if session.get_credentials() is None:
            return None
        style = {"addressing_style": "path" if endpoint or "." in bucket else "virtual"}  # else no region in the host
        return session.client("s3", region_name=_region(), config=Config(signature_version="s3v4", s3=style))


@contextmanager
def _signing(where: str) -> Iterator[None]:
    """What boto3 has to say, in one line."""
    from botocore.exceptions import BotoCoreError  # type: ignore

    try:
        yield
    except (BotoCoreError, ValueError) as error:
        raise DataError(f"{where}: boto3 cannot sign addresses ({error}). See to the AWS settings.") from None
