"""Servers that are told of alerts: a real Alertmanager, a webhook that keeps what it gets, and a mail server."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from waiting import until


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running_alertmanager(folder: Path) -> Iterator[str]:
    """The URL of Debian's. It tells nobody else."""
    program = shutil.which("prometheus-alertmanager")
    if program is None:
        pytest.skip("prometheus-alertmanager is not installed: make test-packages")
    (folder / "alertmanager.yml").write_text("route: {receiver: nobody}\nreceivers: [{name: nobody}]\n")
    place = f"127.0.0.1:{free_port()}"
    command = [
        program,
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address={place}",
        "--cluster.listen-address=",
    ]
    with (
        (folder / "alertmanager.log").open("w") as said,
        subprocess.Popen(command, stderr=said, stdout=said) as process,
    ):

        def ready() -> bool:
            assert process.poll() is None, (folder / "alertmanager.log").read_text()
            try:
                return urlopen(f"http://{place}/-/ready", timeout=5).status == 200
            except URLError:
                return False

        try:
            until("Alertmanager", ready)
            yield f"http://{place}"
        finally:
            process.terminate()


@dataclass
class Hook:
    """A webhook. ``answers`` are the next statuses; 200 when there are none. ``got`` has headers and bodies."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    got: list[tuple[dict[str, str], bytes]] = field(default_factory=list)


@contextmanager
def running_hook() -> Iterator[Hook]:
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.got.append((dict(self.headers), body))
            status = hook.answers.pop(0) if hook.answers else 200
            self.send_response(status)
            if status in (301, 307):
                self.send_header("Location", hook.url)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hook.url = f"http://127.0.0.1:{server.server_port}/hook?x=1"
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield hook
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@dataclass
class Mailbox:
    """A mail server for ``user`` with ``password`` (if any). ``refusals`` are its next answers to mail."""

    server: str = ""
    user: str = ""
    password: str = ""
    refusals: list[str] = field(default_factory=list)
    got: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)

    async def handle_DATA(  # noqa: N802 - as aiosmtpd has it
        self, _server: Any, _session: Any, envelope: Any
    ) -> str:
        if self.refusals:
            return self.refusals.pop(0)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        self.recipients += envelope.rcpt_tos
        return "250 OK"


@contextmanager
def running_mailbox(tls: ssl.SSLContext | None = None, user: str = "", password: str = "") -> Iterator[Mailbox]:
    """``tls``: mail is taken after STARTTLS alone."""
    mailbox = Mailbox(user=user, password=password)

    def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
        right = isinstance(data, LoginPassword) and (data.login, data.password) == (user.encode(), password.encode())
        return AuthResult(success=right, handled=right)

    port = free_port()
    controller = Controller(
        mailbox,
        hostname="127.0.0.1",
        port=port,
        tls_context=tls,
        require_starttls=tls is not None,
        auth_required=bool(user),
        authenticator=authenticate if user else None,
    )
    controller.start()
    mailbox.server = f"127.0.0.1:{port}"
    try:
        yield mailbox
    finally:
        controller.stop()
