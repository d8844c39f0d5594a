"""No spelling of an address, no redirect and no name server makes us ask this machine's own network."""

import socket
import ssl
from collections.abc import Callable
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request

import pytest

from bricscli.data.addresses import CheckedOpener, is_public, parse_address, shown
from bricscli.errors import DataError, RecipeError

Serve = Callable[[str], Any]

pytestmark = pytest.mark.usefixtures("fast_network")

#: Spellings of this machine, of its network and of other things that are no server of the internet.
HOSTILE = [
    "http://127.0.0.1/", "https://127.0.0.1/", "https://localhost/", "https://LOCALHOST./", "https://127.1/",
    "https://2130706433/", "http://2130706433/", "https://0x7f.1/", "https://0x7f000001/", "https://017700000001/",
    "https://127.0.0.1.:443/", "https://[::1]/", "https://[0:0:0:0:0:0:0:1]/", "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/", "https://[::127.0.0.1]/", "https://[64:ff9b::127.0.0.1]/", "https://[2002:7f00:1::]/",
    "https://[fe80::1]/", "https://[fc00::1]/", "https://[ff02::1]/", "https://[::]/", "https://0.0.0.0/",
    "https://0/", "https://10.0.0.1/", "https://172.16.5.4/", "https://192.168.1.1/", "https://100.64.0.1/",
    "https://169.254.169.254/latest/meta-data/", "https://2852039166/", "https://[fd00:ec2::254]/",
    "https://224.0.0.1/", "https://240.0.0.1/", "https://255.255.255.255/", "https://198.18.0.1/", "https://192.0.2.1/",
]
#: What is not even resolved.
ODD = [
    "https://good.example@127.0.0.1/", "https://good.example:pw@127.0.0.1/", "https:///etc/passwd", "https://",
    "https://127.0.0.1\\@good.example/", "https://good.example\\.evil/", "https://good.example#@127.0.0.1/",
    "https://good.example:99999/", "https://good.example:0/", "https://good.example:port/", "https://good.example:-1/",
    "https://ⓛocalhost/", "https://bücher.example/", "https://127。0。0。1/", "https://good.example/ü", "https://[::1/",
    "https://[1.2.3.4]/", "https://[::1%25lo]/", "https://good.example/a b", "https://good.example/\r\nHost:x",
    "https://good\t.example/", " https://good.example/", "https:/good.example/", "https:good.example/",
    "//good.example/", "file:///etc/passwd", "FILE:///etc/passwd", "ftp://good.example/", "gopher://127.0.0.1/",
    "data:,x", "javascript:1", "unix:///run/x", "http+unix://x/", "https://./", "https://%31%32%37.0.0.1/",
]


@pytest.fixture
def connected(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where connections went, none of which leaves this machine."""
    places: list[Any] = []

    def connect(self: socket.socket, place: Any) -> None:
        places.append(place)
        raise ConnectionRefusedError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", connect)
    return places


@pytest.mark.parametrize("url", HOSTILE)
def test_no_spelling_reaches_this_machine_or_its_network(url: str, connected: list[Any]) -> None:
    with pytest.raises(DataError) as caught:
        CheckedOpener().open(Request(url), timeout=1)
    assert len(caught.value.lines) == 1 and "--allow-host" in str(caught.value) and connected == []


@pytest.mark.parametrize("url", ODD)
def test_odd_addresses_are_not_resolved(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("was resolved"))
    with pytest.raises(DataError, match="is no address that data are asked of") as caught:
        CheckedOpener().check(url)
    assert "pw@" not in str(caught.value)


def test_one_spelling_of_each() -> None:
    parsed = parse_address("HTTPS://Data.Example.:443/Set/?a=1")
    assert (parsed.url, parsed.place) == ("https://data.example/Set/?a=1", "data.example")
    assert parse_address("https://xn--bcher-kva.example:8443").url == "https://xn--bcher-kva.example:8443/"
    assert parse_address("https://[2606:4700:0:0::1111]/x").url == "https://[2606:4700::1111]/x"
    assert parse_address("https://a.example?x").path == "/?x"
    assert shown("https://me:pw@a.example/x?signature=1#2") == "https://a.example/x"


@pytest.mark.parametrize(("address", "public"), [
    ("8.8.8.8", True), ("93.184.216.34", True), ("2606:4700:4700::1111", True), ("64:ff9b::8.8.8.8", True),
    ("2002:808:808::", True), ("64:ff9b::10.0.0.1", False), ("2002:a9fe:a9fe::", False), ("::ffff:8.8.8.8", False),
    ("2001:0:7f00:1::", False), ("64:ff9b:1::1", False), ("192.0.0.8", False), ("4000::1", False),
    ("192.0.0.170", False), ("fec0::1", False), ("fe80::1%eth0", False), ("203.0.113.9", False),
    ("127.255.255.254", False)])
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) == public


def answer(*addresses: str) -> list[Any]:
    return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443)) for address in addresses]


def test_one_private_address_among_public_ones_is_enough(connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer("93.184.216.34", "10.0.0.1"))
    with pytest.raises(DataError, match=r"evil\.example: is at 10\.0\.0\.1"):
        CheckedOpener().open(Request("https://evil.example/x"), timeout=1)
    assert connected == []


def test_a_name_server_that_changes_its_mind(connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection goes to the address that was looked at; the next one is looked at anew."""
    answers = [answer("93.184.216.34"), answer("127.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers.pop(0))
    opener = CheckedOpener()
    with pytest.raises(OSError, match="no network"):
        opener.open(Request("https://evil.example/x"), timeout=1)
    assert connected == [("93.184.216.34", 443)] and len(answers) == 1
    with pytest.raises(DataError, match=r"is at 127\.0\.0\.1"):
        opener.open(Request("https://evil.example/x"), timeout=1)
    assert len(connected) == 1


def test_all_addresses_of_a_host_are_tried(connected: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answer("93.184.216.34", "93.184.216.35"))
    with pytest.raises(OSError, match="no network"):
        CheckedOpener().open(Request("https://good.example/x"), timeout=1)
    assert connected == [("93.184.216.34", 443), ("93.184.216.35", 443)]


def test_the_certificate_is_asked_for_the_name(monkeypatch: pytest.MonkeyPatch, serve: Serve) -> None:
    site, names = serve("site"), []

    def wrap(self: ssl.SSLContext, sock: socket.socket, **options: Any) -> Any:
        assert self.check_hostname and self.verify_mode == ssl.CERT_REQUIRED
        names.append(options["server_hostname"])
        raise ssl.SSLCertVerificationError("stop here")

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap)
    with pytest.raises(OSError, match="stop here"):
        CheckedOpener(["localhost"]).open(Request(f"https://LOCALHOST:{site.port}/x"), timeout=1)
    assert names == ["localhost"]


@pytest.mark.parametrize(("allowed", "reached"), [
    ("127.0.0.1", True), ("127.0.0.1:PORT", True), ("127.0.0.1:1", False), ("localhost", False), ("10.0.0.1", False)])
def test_a_host_is_allowed_by_its_name_and_port(allowed: str, reached: bool, serve: Serve) -> None:
    site = serve("site")
    (site.folder / "x").write_bytes(b"here")
    opener = CheckedOpener([allowed.replace("PORT", str(site.port))])
    if reached:
        with opener.open(Request(f"{site.url}/x"), timeout=5) as response:
            assert response.read() == b"here"
    else:
        with pytest.raises(DataError, match="only https is"):
            opener.open(Request(f"{site.url}/x"), timeout=5)
    assert len(site.asked) == reached


@pytest.mark.parametrize("text", ["", "http://x", "a b", "x:", "x:1:2", "::1", "[::1", "x/y", "user@x", "."])
def test_what_is_no_host_cannot_be_allowed(text: str) -> None:
    with pytest.raises(RecipeError, match=r"--allow-host: `.*` is no host"):
        CheckedOpener([text])


@pytest.mark.parametrize("place", [
    "http://127.0.0.1:MARKER/x", "//127.0.0.1:MARKER/x", "http://2130706433:MARKER/x",
    "http://[::ffff:127.0.0.1]:MARKER/x", "http://SITE@127.0.0.1:MARKER/x", "HTTP://0x7f.1:MARKER/x",
    "https://127.0.0.1:MARKER/x", "http://localhost:MARKER/x", "file:///etc/passwd", "ftp://127.0.0.1:MARKER/x",
    "http://[::1", "\\\\127.0.0.1:MARKER/x"])
def test_redirects_are_looked_at_as_well(place: str, serve: Serve) -> None:
    site, marker = serve("site"), serve("marker")
    (marker.folder / "x").write_bytes(b"secret")
    site.codes, site.location = [302], place.replace("MARKER", str(marker.port)).replace("SITE", site.host)
    with pytest.raises(DataError) as caught:
        CheckedOpener([site.host]).open(Request(f"{site.url}/x"), timeout=5)
    assert len(caught.value.lines) == 1 and marker.asked == []


def test_redirects_that_may_be_followed(serve: Serve) -> None:
    site, other = serve("site"), serve("other")
    (other.folder / "x").write_bytes(b"here")
    site.codes, site.location = [307], f"{other.url}/x?signature=1#part"
    with CheckedOpener([site.host, other.host]).open(Request(f"{site.url}/x", headers={"Range": "bytes=1-"}),
                                                     timeout=5) as response:
        assert response.read() == b"here"
    assert other.asked == [("/x?signature=1", "bytes=1-")]
    site.codes, site.location, site.asked = [301] * 9, "/x", []
    with pytest.raises(DataError, match="more than 3 times"):
        CheckedOpener([site.host]).open(Request(f"{site.url}/x"), timeout=5)
    assert len(site.asked) == 4
    site.codes, site.location = [302], None
    with pytest.raises(HTTPError):
        CheckedOpener([site.host]).open(Request(f"{site.url}/x"), timeout=5)


def test_https_never_leads_to_http() -> None:
    opener = CheckedOpener(["a.example"])
    with pytest.raises(DataError, match="which is not https"):
        opener._led_to(opener.check("https://a.example/x"), "http://a.example/y?secret=1")


def test_proxies_are_asked_only_for_hosts_that_are_allowed(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve("proxy")
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, proxy.url)
    with pytest.raises(DataError, match=r"a proxy is set .* --allow-host data\.example"):
        CheckedOpener().open(Request("https://data.example/x"), timeout=5)
    assert proxy.asked == []
    with pytest.raises(HTTPError):
        CheckedOpener(["data.example"]).open(Request("http://data.example/x"), timeout=5)
    assert proxy.asked == [("http://data.example/x", None)]
    monkeypatch.setenv("no_proxy", "data.example")
    assert CheckedOpener().check("https://data.example/x").place == "data.example"
