"""HTTP proxies of the environment: never between processes of one machine, and named if they are in the way.

gRPC, urllib, requests, httpx and websockets take a proxy from http_proxy, https_proxy and all_proxy, each
with its own rules for no_proxy. Here one rule decides for all of our connections.

urllib.request takes 30 ms to import, so only functions that need it do so.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import unquote, urlsplit

# gRPC core reads these, in this order, in lower case only.
GRPC_PROXY_VARIABLES = ("grpc_proxy", "https_proxy", "http_proxy")
NO_PROXY_VARIABLES = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
THIS_MACHINE = ("localhost", "127.0.0.1", "::1")
_LOCAL_SCHEMES = ("unix", "unix-abstract", "vsock")
_ADDRESS_SCHEMES = ("dns", "ipv4", "ipv6")


def is_local(target: str) -> bool:
    """Whether a gRPC target, a URL or a host:port is on this machine: loopback or a Unix socket."""
    if target.partition(":")[0].lower() in _LOCAL_SCHEMES:
        return True
    hosts = [_host(address) for address in addresses(target)]
    return bool(hosts) and all(_is_loopback(host) for host in hosts)


def proxy_for(target: str) -> tuple[str, str] | None:
    """The variable and the proxy through which gRPC reaches a target; None: no proxy."""
    proxy = next(((name, os.environ[name]) for name in GRPC_PROXY_VARIABLES if os.environ.get(name)), None)
    return None if proxy is None or is_local(target) or _is_excepted(target) else proxy


def channel_options(target: str) -> tuple[tuple[str, int], ...]:
    """Options of a gRPC channel to a target."""
    return (("grpc.enable_http_proxy", int(proxy_for(target) is not None)),)


def explain(target: str) -> str:
    """What to add to the message of a connection that failed; "" if no proxy is involved."""
    proxy = proxy_for(target)
    return "" if proxy is None else describe(target, *proxy)


def describe(target: str, variable: str, proxy: str) -> str:
    host = _host(next(iter(addresses(target)), target))
    return (
        f"; the connection goes through the proxy {without_password(proxy)} ({variable}); "
        f"if it needs none, set no_proxy={host}"
    )


def without_password(proxy: str) -> str:
    """The URL of a proxy without the user and password that it may hold."""
    scheme, separator, rest = proxy.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}" if separator else proxy.rpartition("@")[2]


def open_url(url: str, timeout_s: float, **handler_options: Any) -> Any:
    """urllib.request.urlopen, without a proxy for this machine. handler_options: of an HTTPSHandler.

    The HTTPError of a refusal is closed: it is the response, and Python 3.14 warns of a connection that stays open.
    """
    import urllib.error
    import urllib.request

    handlers: list[urllib.request.BaseHandler] = []
    if is_local(url):
        handlers.append(urllib.request.ProxyHandler({}))
    if handler_options:
        handlers.append(urllib.request.HTTPSHandler(**handler_options))
    try:
        return urllib.request.build_opener(*handlers).open(url, timeout=timeout_s)
    except urllib.error.HTTPError as error:
        error.close()
        raise


def reached_through_proxy(url: str) -> bool:
    """Whether urllib and requests open an http or https URL through a proxy."""
    import urllib.request

    parts = urlsplit(url)
    proxies = urllib.request.getproxies()
    proxied = parts.scheme in proxies or "all" in proxies
    return proxied and not is_local(url) and not urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2])


def bypass_proxies_on_this_machine(environ: MutableMapping[str, str]) -> None:
    """Adds this machine to no_proxy if there is a proxy: for libraries, such as MLflow, and for child processes."""
    names = [name for name in environ if name.lower().endswith("_proxy") and not name.lower().startswith("no_")]
    if not any(environ[name] for name in names):
        return
    before = environ.get("no_proxy") or environ.get("NO_PROXY") or ""
    if before.strip() == "*":
        return
    listed = [entry.strip() for entry in before.split(",") if entry.strip()]
    listed += [host for host in THIS_MACHINE if host not in listed]
    # Libraries differ in which of the two they read.
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(listed)


def addresses(target: str) -> list[str]:
    """host:port of each address in a target."""
    scheme, _, rest = target.partition(":")
    if scheme.lower() in _ADDRESS_SCHEMES:
        if rest.startswith("//"):  # dns://authority/host:port; the authority is the name server to ask
            rest = rest[2:].partition("/")[2]
        return unquote(rest).lstrip("/").split(",")
    if "://" in target:
        return [urlsplit(target).netloc.rpartition("@")[2]]
    return [target] if target else []


def _host(address: str) -> str:
    """The host of host:port, [v6]:port, host or v6."""
    if address.startswith("["):
        return address[1:].partition("]")[0].lower()
    host, colon, port = address.rpartition(":")
    return (host if colon and port.isdigit() and ":" not in host else address).lower()


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    mapped = getattr(address, "ipv4_mapped", None) or address
    # A connection to the unspecified address reaches this machine.
    return bool(mapped.is_loopback or mapped.is_unspecified)


def _is_excepted(target: str) -> bool:
    listed = next((os.environ[name] for name in NO_PROXY_VARIABLES if os.environ.get(name)), "").strip()
    if not listed:
        return False
    hosts = addresses(target)
    return bool(hosts) and all(_matches(listed, address) for address in hosts)


def _matches(listed: str, address: str) -> bool:
    import urllib.request

    # The standard library knows "*", names, suffixes and ports, but no networks.
    bypass = urllib.request.proxy_bypass_environment  # type: ignore[attr-defined]
    if bypass(address, {"no": listed}) or bypass(_host(address), {"no": listed}):
        return True
    try:
        host = ipaddress.ip_address(_host(address))
    except ValueError:
        return False
    return any(host in network for network in _networks(listed))


def _networks(listed: str) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
    networks = []
    for entry in listed.split(","):
        try:
            networks.append(ipaddress.ip_network(entry.strip(), strict=False))
        except ValueError:
            continue  # a name
    return networks
