"""Addresses of what lies in buckets: plain where there are no credentials, signed by boto3 where there are."""

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import pytest

from bricscli.data import buckets
from bricscli.data.buckets import bucket_addresses
from bricscli.errors import DataError

pytestmark = pytest.mark.usefixtures("fast_network")


@pytest.fixture
def no_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "find_spec", lambda name: None)


@pytest.fixture
def boto3(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A boto3 that signs as the real one does, as far as we look."""
    state = SimpleNamespace(credentials=object(), asked=[], error=None)

    class BotoCoreError(Exception):
        pass

    def presign(operation: str, **options: Any) -> str:
        if state.error:
            raise BotoCoreError(state.error)
        state.asked.append((operation, options["Params"]))
        return f"https://signed.example/{options['Params']['Key']}?X-Amz-Signature=secret"

    def client(kind: str, config: Any, region_name: str | None) -> Any:
        state.config = config
        return SimpleNamespace(generate_presigned_url=presign)

    modules = {name: ModuleType(name) for name in ("boto3", "botocore", "botocore.config", "botocore.exceptions")}
    modules["boto3"].Session = lambda: SimpleNamespace(  # type: ignore[attr-defined]
        get_credentials=lambda: state.credentials, client=client)
    modules["botocore.config"].Config = lambda **options: options  # type: ignore[attr-defined]
    modules["botocore.exceptions"].BotoCoreError = BotoCoreError  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(buckets, "find_spec", lambda name: True)
    return state


@pytest.mark.parametrize(("where", "settings", "address"), [
    ("s3://photos/sets/church/", {}, "https://photos.s3.amazonaws.com/sets/church/f.tar"),
    ("S3://photos", {}, "https://photos.s3.amazonaws.com/f.tar"),
    ("s3://my.photos/a", {"AWS_REGION": "eu-west-1"}, "https://s3.eu-west-1.amazonaws.com/my.photos/a/f.tar"),
    ("s3://photos/a b/ü", {"AWS_DEFAULT_REGION": "eu-west-1"},
     "https://photos.s3.eu-west-1.amazonaws.com/a%20b/%C3%BC/f.tar"),
    ("s3://photos/a/", {"AWS_ENDPOINT_URL": "https://store.example/"}, "https://store.example/photos/a/f.tar")])
@pytest.mark.usefixtures("no_boto3")
def test_public_buckets(where: str, settings: dict[str, str], address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert bucket_addresses(where)("f.tar") == address


@pytest.mark.parametrize("where", ["s3://", "s3:///x", "s3://UPPER/x", "s3://a/x", "s3://-photos-/x", "s3://photos/x?y",
                                   "s3://photos/x#y", "s3://ph@tos/x", "s3://photos:80/x", "s3://photos/a\\b"])
def test_what_is_no_bucket(where: str) -> None:
    with pytest.raises(DataError, match="is no bucket"):
        bucket_addresses(where)


@pytest.mark.usefixtures("no_boto3")
def test_credentials_without_boto3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    with pytest.raises(DataError) as caught:
        bucket_addresses("s3://photos/a/")
    (line,) = caught.value.lines
    assert "AWS_ACCESS_KEY_ID is set" in line and "pip install 'brics[s3]'" in line and "AKIDEXAMPLE" not in line


def test_private_buckets_are_signed(boto3: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    sign = bucket_addresses("s3://photos/sets/a b/")
    assert sign("f.tar") == "https://signed.example/sets/a b/f.tar?X-Amz-Signature=secret"
    assert boto3.asked == [("get_object", {"Bucket": "photos", "Key": "sets/a b/f.tar"})]
    boto3.error = "no region"
    with pytest.raises(DataError, match=r"s3://photos/sets/a b/: boto3 cannot sign addresses \(no region\)"):
        sign("f.tar")
    boto3.credentials = None
    assert bucket_addresses("s3://photos/a/")("f.tar") == "https://photos.s3.amazonaws.com/a/f.tar"
    boto3.credentials = object()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "https://store.example")
    bucket_addresses("s3://photos/a/")
    assert boto3.config["s3"] == {"addressing_style": "path"}, "other stores have one name for all buckets"


@pytest.mark.skipif(importlib.util.find_spec("boto3") is None, reason="boto3 is not installed")
@pytest.mark.parametrize(("bucket", "endpoint", "address"), [
    ("photos", None, "https://photos.s3.eu-west-1.amazonaws.com/sets/a%20b/f.tar"),
    ("my.photos", None, "https://s3.eu-west-1.amazonaws.com/my.photos/sets/a%20b/f.tar"),
    ("photos", "https://store.example:9000", "https://store.example:9000/photos/sets/a%20b/f.tar")])
def test_the_real_boto3_signs_without_asking_anybody(bucket: str, endpoint: str | None, address: str,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked somebody"))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-secret")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    if endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    found, _, signature = bucket_addresses(f"s3://{bucket}/sets/a b/")("f.tar").partition("?")
    query = parse_qs(signature)
    assert found == address and query["X-Amz-Algorithm"] == ["AWS4-HMAC-SHA256"] and "not-a-secret" not in signature
    assert query["X-Amz-SignedHeaders"] == ["host"], "so that a range can be asked for"
