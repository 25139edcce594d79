"""Keycloak, run for tests: a realm with two clients, users and groups, and a browser without a screen."""

from __future__ import annotations

import html
import json
import os
import re
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path
from typing import Any

from waiting import until

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {"KC_BOOTSTRAP_ADMIN_USERNAME": "admin", "KC_BOOTSTRAP_ADMIN_PASSWORD": "admin"}
OPTIONS = ["-Xms64m", "-Xmx400m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
           "-Djava.util.logging.manager=org.jboss.logmanager.LogManager", "-Dpicocli.disable.closures=true"]  # fmt: skip
MAPPERS = [
    {"name": "groups", "protocol": "openid-connect", "protocolMapper": "oidc-group-membership-mapper",
     "config": {"claim.name": "groups", "full.path": "false", "access.token.claim": "true"}},
    {"name": "audience", "protocol": "openid-connect", "protocolMapper": "oidc-audience-mapper",
     "config": {"included.custom.audience": "podlane-api", "access.token.claim": "true"}},
]  # fmt: skip


def client(name: str, secret: str = "") -> dict[str, Any]:
    return {
        "clientId": name, "publicClient": not secret, "secret": secret, "redirectUris": ["http://testserver/*"],
        "attributes": {"oauth2.device.authorization.grant.enabled": "true", "pkce.code.challenge.method": "S256"},
        "protocolMappers": MAPPERS,
    }  # fmt: skip


REALM = {
    "realm": "podlane", "enabled": True, "sslRequired": "none", "accessTokenLifespan": 300,
    "attributes": {"oauth2DevicePollingInterval": "0"},
    "groups": [{"name": "shop-editors"}, {"name": "everybody"}],
    "clients": [client("podlane", "the client's secret"), client("public"), {**client("other"), "protocolMappers": MAPPERS[:1], "directAccessGrantsEnabled": True, "attributes": {}}],
    "users": [
        {"username": name, "enabled": True, "firstName": name, "lastName": "L", "email": f"{name}@example.com",
         "emailVerified": True, "credentials": [{"type": "password", "value": f"{name}'s password"}], "groups": groups}
        for name, groups in (("ada", ["/shop-editors"]), ("eve", []))
    ],
}  # fmt: skip


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        return None


@dataclass
class Keycloak:
    """``url`` is that of the server."""

    url: str
    process: subprocess.Popen[bytes]
    token: str = ""

    @property
    def issuer(self) -> str:
        return f"{self.url}/realms/podlane"

    def ask(self, path: str, form: dict[str, str]) -> dict[str, Any]:
        body = urllib.parse.urlencode(form).encode()
        with urllib.request.urlopen(f"{self.url}{path}", body) as answer:
            return json.load(answer)

    def administer(self, method: str, path: str, body: object = None) -> Any:
        form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "admin"}
        token = self.ask("/realms/master/protocol/openid-connect/token", form)["access_token"]
        request = urllib.request.Request(f"{self.url}/admin/realms{path}", method=method)
        request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.data = json.dumps(body).encode()
            request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@dataclass
class Browser:
    """Follows Keycloak's pages and fills in their forms."""

    name: str
    cookies: CookieJar = field(
        default_factory=lambda: CookieJar(DefaultCookiePolicy(secure_protocols=("http", "https")))
    )
    """To browsers this machine is as safe as TLS: they send it cookies that are for TLS alone."""

    def open(self, url: str, form: dict[str, str] | None = None, *, until_host: str = "testserver") -> str:
        """Where the pages lead to on another host; else the text of the last."""
        opener = urllib.request.build_opener(_Stay, urllib.request.HTTPCookieProcessor(self.cookies))
        body = urllib.parse.urlencode(form).encode() if form is not None else None
        try:
            with opener.open(url, body) as answer:
                return answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                if error.code not in (302, 303):
                    raise AssertionError(f"{url}: {error.code} {error.read().decode()[:2000]}") from None
                target = urllib.parse.urljoin(url, error.headers["Location"])
            if urllib.parse.urlsplit(target).hostname == until_host:
                return target
            return self.open(target, until_host=until_host)

    def log_in(self, url: str) -> str:
        """Log in at the page to which a URL leads; what follows."""
        return self.submit(self.open(url), url, username=self.name, password=f"{self.name}'s password")

    def submit(self, page: str, base: str, **values: str) -> str:
        """Send the page's form, with the values of its hidden fields."""
        action = re.search(r'<form[^>]*action="([^"]+)"', page)
        assert action, page[:3000]
        hidden = dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)"', page))
        return self.open(urllib.parse.urljoin(base, html.unescape(action[1])), {**hidden, **values})


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running_keycloak(program: Path, folder: Path) -> Iterator[Keycloak]:
    """``folder`` becomes its home: the program's own stays as it is."""
    for name in ("bin", "conf", "lib", "providers", "themes"):
        (folder / name).symlink_to(program / name)
    (folder / "data").mkdir()
    port, management = free_port(), free_port()
    command = [
        "java", *OPTIONS, f"-Dkc.home.dir={folder}", f"-Djboss.server.config.dir={folder / 'conf'}",
        "-cp", str(folder / "lib" / "quarkus-run.jar"), "io.quarkus.bootstrap.runner.QuarkusEntryPoint",
        "start", "--optimized", "--http-enabled=true", "--hostname-strict=false", "--http-host=127.0.0.1",
        f"--http-port={port}", f"--http-management-port={management}", "--cache=local",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **ENVIRONMENT})
    try:
        keycloak = Keycloak(f"http://127.0.0.1:{port}", process)

        def answers() -> bool:
            assert process.poll() is None, (folder / "log").read_text()
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        until("Keycloak", answers, patience=100)
        keycloak.administer("POST", "", REALM)
        yield keycloak
    finally:
        process.terminate()
        process.wait()
