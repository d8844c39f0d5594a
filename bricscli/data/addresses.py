"""Which servers are asked for data: https, at addresses of the internet, unless a host is allowed by its name.

A data set's address may come from anybody, and a server may send us on to another. So that neither makes this machine
ask its own network (an instance's metadata, a router, a database), a host is resolved once for each connection, every
address found must be public, and the connection goes to an address that was looked at; TLS still verifies the name.
Where we are sent on to is looked at in the same way.
"""

import http.client
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urljoin
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    getproxies,
    proxy_bypass,
)

from bricscli.errors import DataError, RecipeError

MOST_REDIRECTS = 3
_REDIRECTS = {301, 302, 303, 307, 308}
_HOST = r"\[[0-9a-f:.]+\]|[a-z0-9._-]+"
_ADDRESS = re.compile(rf"(https?)://({_HOST})(?::([0-9]{{1,5}}))?([/?][!-~]*)?", re.IGNORECASE)
_ALLOWED = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?", re.IGNORECASE)
_PORTS = {"https": 443, "http": 80}
#: Global unicast of IPv6, and two ranges in which an IPv4 address is meant.
_UNICAST, _NAT64 = ipaddress.IPv6Network("2000::/3"), ipaddress.IPv6Network("64:ff9b::/96")
#: Protocol assignments, some of which `ipaddress` counts as global.
_ASSIGNED = ipaddress.IPv4Network("192.0.0.0/24")


@dataclass(frozen=True)
class Address:
    """An address in one spelling: scheme and host in small letters, an IPv6 host without brackets."""

    scheme: str
    host: str
    port: int
    path: str  #: from "/", with the query

    @property
    def place(self) -> str:
        """host, or host:port where the port is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.place}{self.path}"


def parse_address(url: str) -> Address:
    """Raises DataError for anything but http and https without user names and with nothing that two programs could
    read in two ways: other than printable ASCII, a fragment, an odd host."""
    match = _ADDRESS.fullmatch(url)
    host = match and _normal_host(match[2])
    port = int(match[3] or _PORTS[match[1].lower()]) if match else 0
    if match is None or not host or not 0 < port < 1 << 16 or "\\" in url or "#" in url:
        raise DataError(f"{shown(url)}: is no address that data are asked of. Write https://HOST/PATH/ without user "
                        "and password, in ASCII (a host as xn--..., in a path %XX), or s3://BUCKET/PREFIX/.")
    path = match[4] or "/"
    return Address(match[1].lower(), host, port, path if path[0] == "/" else f"/{path}")


def shown(url: str) -> str:
    """An address for messages: without user and password, query and fragment, which may be secrets."""
    return re.sub(r"//[^/?#]*@", "//", re.split(r"[?#]", url, maxsplit=1)[0])


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, to which everybody's packets go."""
    ip = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        if ip in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.sixtofour is not None and not is_public(str(ip.sixtofour)):
            return False
        return ip in _UNICAST and ip.is_global
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip in _ASSIGNED)


class CheckedOpener:
    """Opens requests as urllib does, but only to the servers that the module's first lines describe.

    `allowed`: hosts, `HOST` or `HOST:PORT`, that may lie anywhere and be asked by http. Proxies of the environment are
    used for these alone: a proxy resolves names itself, out of our sight.
    """

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """Raises RecipeError for what is no host."""
        self._allowed = {_parse_allowed(text) for text in allowed}

    def open(self, request: Request, *, timeout: float) -> Any:
        """The answer to a request, or to the one that it leads to.

        Raises DataError for an address that is not asked, HTTPError for other answers than 200 to 299, OSError.
        """
        address = self.check(request.full_url)
        for _ in range(MOST_REDIRECTS + 1):
            try:
                return self._director(address).open(Request(address.url, headers=dict(request.headers)),
                                                    timeout=timeout)
            except HTTPError as error:
                place = error.headers["Location"]
                if error.code not in _REDIRECTS or not place:
                    raise
                error.close()
                address = self._led_to(address, place)
        raise DataError(f"{shown(request.full_url)}: leads from one address to another more than {MOST_REDIRECTS} "
                        "times. Name the last of them.")

    def check(self, url: str) -> Address:
        """The address, if it may be asked as far as its spelling tells. Raises DataError."""
        address = parse_address(url)
        if self._allows(address.host, address.port):
            return address
        if address.scheme != "https":
            raise DataError(f"{shown(url)}: is not asked for data, since only https is. Pass --allow-host "
                            f"{address.place} if you mean it.")
        if _has_proxy(address):
            raise DataError(f"{shown(url)}: a proxy is set (HTTPS_PROXY), and through it nobody sees which server "
                            f"answers. Pass --allow-host {address.place} to ask through it, or unset HTTPS_PROXY.")
        return address

    def _led_to(self, address: Address, place: str) -> Address:
        try:
            target = urljoin(address.url, place).partition("#")[0]
        except ValueError:  # brackets that hold no IPv6 address
            target = place
        try:
            found = self.check(target)
        except DataError as error:
            raise DataError(f"{shown(address.url)}: leads elsewhere, where brics does not follow: {error}") from None
        if (address.scheme, found.scheme) == ("https", "http"):
            raise DataError(f"{shown(address.url)}: leads to {shown(found.url)}, which is not https. Name another "
                            "address.")
        return found

    def _director(self, address: Address) -> OpenerDirector:
        """No handler that follows, none for other schemes, no proxy but where the host is allowed."""
        director = OpenerDirector()
        proxied = _has_proxy(address)  # then the host is allowed: `check`
        own = (ProxyHandler(), HTTPHandler(), HTTPSHandler()) if proxied else (_Http(self), _Https(self))
        for handler in (*own, HTTPErrorProcessor(), HTTPDefaultErrorHandler()):
            director.add_handler(handler)
        return director

    def _allows(self, host: str, port: int) -> bool:
        return not self._allowed.isdisjoint({(host, None), (host, port)})

    def connect(self, host: str, port: int, timeout: float | None) -> socket.socket:
        """A connection to an address of the host that was looked at. Raises DataError where one is not public."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        if not self._allows(host, port):
            for *_, place in found:
                if not is_public(str(place[0])):
                    raise DataError(f"{host}: is at {place[0]}, which is no public address, and not asked for data. "
                                    f"Pass --allow-host {host} if you mean it.")
        for family, kind, protocol, _, place in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout)
                connection.connect(place)
                return connection
            except OSError as error:
                connection.close()
                refused = error
        raise refused


class _Connection(http.client.HTTPConnection):
    """Plain, by `CheckedOpener.connect`."""

    def __init__(self, host: str, *, opener: CheckedOpener, timeout: float) -> None:
        super().__init__(host, timeout=timeout)
        self._opener = opener

    def connect(self) -> None:
        self.sock = self._opener.connect(self.host, self.port, self.timeout)


class _SecureConnection(_Connection):
    default_port = _PORTS["https"]

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        context.set_alpn_protocols(["http/1.1"])
        self.sock = context.wrap_socket(self.sock, server_hostname=self.host)


class _Http(HTTPHandler):
    def __init__(self, opener: CheckedOpener) -> None:
        super().__init__()
        self._opener = opener

    def http_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(_Connection, req, opener=self._opener)  # type: ignore[arg-type]


class _Https(HTTPSHandler):
    def __init__(self, opener: CheckedOpener) -> None:
        super().__init__()
        self._opener = opener

    def https_open(self, req: Request) -> http.client.HTTPResponse:
        return self.do_open(_SecureConnection, req, opener=self._opener)  # type: ignore[arg-type]


def _normal_host(host: str) -> str | None:
    """In small letters, without the dot at its end; of an IPv6 address its short form. None: it is none."""
    host = host.lower().removesuffix(".")
    if not host.startswith("["):
        return host
    try:
        return str(ipaddress.IPv6Address(host[1:-1]))
    except ValueError:
        return None


def _parse_allowed(text: str) -> tuple[str, int | None]:
    match = _ALLOWED.fullmatch(text)
    host = match and _normal_host(match[1])
    if match is None or not host:
        raise RecipeError(f"--allow-host: `{text}` is no host. Write HOST or HOST:PORT, an IPv6 address in brackets.")
    return host, int(match[2]) if match[2] else None


def _has_proxy(address: Address) -> bool:
    return address.scheme in getproxies() and not proxy_bypass(f"{address.host}:{address.port}")
