"""How channels are told: what they get, what is said of it, and where we do not go."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from alert_servers import running_alertmanager, running_hook, running_mailbox

from control_plane.alerts.alertmanager import AlertmanagerSender
from control_plane.alerts.mail import MailSender
from control_plane.alerts.notices import AlertNotice
from control_plane.alerts.reach import NotReachableError, Reach
from control_plane.alerts.secrets import ChannelSecrets, SecretFileError
from control_plane.alerts.webhook import WebhookSender, signature
from control_plane.domain.alert_book import AlertState
from control_plane.domain.alert_channels import AlertChannel, AlertMatcher, AlertSilence, ChannelKind, MailSecurity
from control_plane.domain.alert_rules import AlertKind, AlertRule
from control_plane.domain.errors import InvalidError
from traffic_policy.errors import ConfigError

LOOPBACK = Reach.parse("127.0.0.0/8, ::1/128")
NOW = 1_800_000_000
LABELS = {"alertname": "slow", "severity": "warning", "policy": "web"}
FIRING = AlertNotice("1f", LABELS, {"summary": "40 % had to wait\r\nBcc: x@example.com"}, AlertState.FIRING, NOW, 0)
OVER = AlertNotice("2f", LABELS, {}, AlertState.RESOLVED, NOW, NOW + 60, "0.1% now")


def hook_channel(url: str, **other: Any) -> AlertChannel:
    return AlertChannel(ChannelKind.WEBHOOK, url, **other)


def mail_channel(server: str, **other: Any) -> AlertChannel:
    values = {"security": MailSecurity.NONE, "sender": "podlane@example.com", "to": ("ops@example.com",), **other}
    return AlertChannel(ChannelKind.EMAIL, server=server, **values)


def test_a_webhook_gets_signed_json() -> None:
    with running_hook() as hook:
        sent = WebhookSender(LOOPBACK, lambda: NOW).send("shop", "ops", hook_channel(hook.url), "key", [FIRING, OVER])
    assert (sent.sent, sent.says) == (True, "127.0.0.1 answered 200 OK")
    [(headers, body)] = hook.got
    assert headers["Podlane-Signature"] == signature("key", NOW, body)
    document = json.loads(body)
    assert (document["tenant"], document["channel"]) == ("shop", "ops")
    assert [(each["state"], each["ends_at"]) for each in document["alerts"]] == [
        ("firing", None),
        ("resolved", "2027-01-15T08:01:00Z"),
    ]


def test_the_signature_is_hmac_sha256_of_time_and_body() -> None:
    body = b'{"a": 1}'
    program = ["openssl", "dgst", "-sha256", "-hmac", "key"]
    said = subprocess.run(program, input=b"17." + body, capture_output=True, check=True).stdout.decode()
    assert signature("key", 17, body) == f"t=17,v1={said.split()[-1]}"


def test_a_redirect_is_not_followed() -> None:
    """It could lead to where we would not go."""
    with running_hook() as hook:
        hook.answers = [307]
        sent = WebhookSender(LOOPBACK).send("shop", "ops", hook_channel(hook.url), "", [FIRING])
    assert (sent.sent, sent.again, len(hook.got)) == (False, False, 1)
    assert "Podlane-Signature" not in hook.got[0][0]


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "[fe80::1]", "[fd00:ec2::254]",
        "100.100.100.200", "[::ffff:169.254.169.254]", "2130706433", "168.63.129.16",
    ],
)  # fmt: skip
def test_where_we_do_not_go(host: str) -> None:
    sent = WebhookSender(Reach()).send("shop", "ops", hook_channel(f"http://{host}:1/"), "", [FIRING])
    assert not sent.sent
    assert not sent.again
    assert "--alerts-may-reach allows it" in sent.says


def test_networks_that_are_allowed_are_reached() -> None:
    with running_hook() as hook:
        assert WebhookSender(LOOPBACK).send("shop", "ops", hook_channel(hook.url), "", [FIRING]).sent
    with pytest.raises(NotReachableError, match="link-local"):
        LOOPBACK.connect("169.254.169.254", 80)
    assert Reach.parse("10.0.0.0/8").allowed == (ipaddress.ip_network("10.0.0.0/8"),)
    with pytest.raises(ConfigError, match="Write networks"):
        Reach.parse("10.0.0.1/8")


def test_a_server_that_is_away_is_tried_again() -> None:
    sent = WebhookSender(LOOPBACK).send("shop", "ops", hook_channel("http://127.0.0.1:9/"), "", [FIRING])
    assert (sent.sent, sent.again) == (False, True)
    assert sent.says == "127.0.0.1 does not answer: Connection refused"


def test_alertmanager_takes_what_fires_and_what_is_over(tmp_path: Path) -> None:
    with running_alertmanager(tmp_path) as url:
        channel = AlertChannel(ChannelKind.ALERTMANAGER, f"{url}/")
        sent = AlertmanagerSender(LOOPBACK, lambda: NOW).send("shop", "am", channel, "", [FIRING, OVER])
        assert sent.says == "127.0.0.1 answered 200 OK"
        wrong = AlertmanagerSender(LOOPBACK, lambda: NOW).send(
            "shop", "am", AlertChannel(channel.kind, f"{url}/no"), "", [FIRING]
        )
        assert (wrong.sent, wrong.again) == (False, False)


def test_mail_has_all_alerts_and_no_header_of_theirs() -> None:
    with running_mailbox() as mailbox:
        sent = MailSender(LOOPBACK).send("shop", "ops", mail_channel(mailbox.server), "", [OVER, FIRING])
    assert sent.says == "127.0.0.1 took it for ops@example.com"
    [message] = mailbox.got
    assert message["Subject"] == "[shop: 1 firing] 40 % had to wait  Bcc: x@example.com"
    assert message["Bcc"] is None
    assert mailbox.recipients == ["ops@example.com"]
    text = message.get_content()
    assert "RESOLVED: slow" in text
    assert "until 2027-01-15T08:01:00Z (0.1% now)" in text


def test_mail_that_is_refused(tmp_path: Path) -> None:
    del tmp_path
    with running_mailbox() as mailbox:
        mailbox.refusals = ["451 later", "554 never"]
        sender, channel = MailSender(LOOPBACK), mail_channel(mailbox.server)
        later = sender.send("shop", "ops", channel, "", [FIRING])
        assert (later.sent, later.again, later.says) == (False, True, "127.0.0.1 refused it: 451")
        never = sender.send("shop", "ops", channel, "", [FIRING])
        assert (never.again, never.says) == (False, "127.0.0.1 refused it: 554")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mail")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    return folder


def test_mail_is_encrypted_and_its_server_known(certificate: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    ca = (certificate / "cert.pem").read_text()
    sender = MailSender(LOOPBACK)
    with running_mailbox(context, "podlane", "secret-word") as mailbox:
        channel = mail_channel(mailbox.server, security=MailSecurity.STARTTLS, ca=ca, user="podlane")
        assert sender.send("shop", "ops", channel, "secret-word", [FIRING]).sent
        wrong = sender.send("shop", "ops", channel, "other-word", [FIRING])
        assert (wrong.sent, wrong.again, wrong.says) == (False, True, "127.0.0.1 refused it: 535")
        assert "no password for podlane" in sender.send("shop", "ops", channel, "", [FIRING]).says
        stranger = mail_channel(mailbox.server, security=MailSecurity.STARTTLS)
        assert "is not trusted" in sender.send("shop", "ops", stranger, "", [FIRING]).says
        plain = sender.send("shop", "ops", mail_channel(mailbox.server), "", [FIRING])
        assert plain.says == "127.0.0.1 refused it: 530"
        assert len(mailbox.got) == 1


def test_secrets_are_in_files_of_their_names(tmp_path: Path) -> None:
    secrets = ChannelSecrets(tmp_path)
    (tmp_path / "shop.ops").write_text("word\n")
    (tmp_path / "shop.two").write_text("one\ntwo")
    assert secrets.secret_of("shop", "ops") == "word"
    assert secrets.secret_of("shop", "other") == ""
    assert secrets.secret_of("../shop", "ops") == ""
    assert ChannelSecrets().secret_of("shop", "ops") == ""
    with pytest.raises(SecretFileError, match="more than one line"):
        secrets.secret_of("shop", "two")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: hook_channel("ftp://x"), "is not a URL"),
        (lambda: hook_channel("https://user:word@x/"), "is not a URL"),
        (lambda: hook_channel("https://x/ y"), "is not a URL"),
        (lambda: hook_channel("https://x/", to=("a@b.c",)), "a url alone"),
        (lambda: hook_channel("https://x/", ca="x"), "no certificate in PEM"),
        (lambda: mail_channel("mail.example.com"), "is not a server"),
        (lambda: mail_channel("mail.example.com:25", to=()), "go to somebody"),
        (lambda: mail_channel("mail.example.com:25", to=("a@b\nBcc: c",)), "not an address"),
        (lambda: mail_channel("mail.example.com:25", user="x"), "unencrypted"),
        (lambda: AlertMatcher("a b", "x"), "label's name"),
        (lambda: AlertMatcher("a", "*" * 5), "too many *"),
        (lambda: AlertSilence((), 0, 1, "x"), "1 to 16 matchers"),
        (lambda: AlertSilence((AlertMatcher("a", "b"),), 2, 1, "x"), "ends after it begins"),
        (lambda: AlertSilence((AlertMatcher("a", "b"),), 0, 1, " "), "Nobody would know why"),
        (lambda: AlertRule(AlertKind.THROTTLED, 1.5), "nothing is more than 1"),
        (lambda: AlertRule(AlertKind.AGENTS_AWAY, 0.5, {"policy": "web"}), "cannot be narrowed to a policy"),
        (lambda: AlertRule(AlertKind.THROTTLED, 0.5, over=901), "Figures are there"),
        (lambda: AlertRule(AlertKind.THROTTLED, 0.5, labels={"severity": "x"}), "has the label severity already"),
        (lambda: AlertRule(AlertKind.THROTTLED, 0.5, annotations={"a": "{{ secret }}"}), "nothing that an alert has"),
        (lambda: AlertRule(AlertKind.THROTTLED, 0.5, channels=("No name",)), "is not a name"),
    ],
)
def test_what_is_wrong_is_said(make: Any, says: str) -> None:
    with pytest.raises(InvalidError, match=says.replace("*", r"\*")):
        make()


def test_matchers_have_stars_and_nothing_else() -> None:
    labels = {"policy": "web[1]", "class": "a?"}
    assert AlertMatcher("policy", "web[1]").matches(labels)
    assert AlertMatcher("policy", "w*]").matches(labels)
    assert not AlertMatcher("policy", "web?1?").matches(labels)
    assert AlertMatcher("class", "a?").matches(labels)
    assert not AlertMatcher("class", "a?").matches({"class": "ab"})
    assert AlertMatcher("team", "").matches(labels)
    assert AlertMatcher("policy", "shop", differs=True).matches(labels)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\n\r\n", b"220-", b"220 x\r\n250-"]
)
@pytest.mark.parametrize("kind", [ChannelKind.WEBHOOK, ChannelKind.EMAIL])
def test_who_answers_a_byte_now_and_then_is_cut_off(kind: ChannelKind, said: bytes) -> None:
    """Each byte comes before the patience with a step is over, so that this alone would never end."""
    reach = Reach(LOOPBACK.allowed, longest=0.5)
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as threads:

        def drip() -> None:
            connection, _ = listener.accept()
            with connection, suppress(OSError):
                connection.sendall(said)
                connection.settimeout(0.05)
                while True:
                    connection.sendall(b"x")
                    with suppress(TimeoutError):
                        if not connection.recv(65_536):
                            return

        dripping = threads.submit(drip)
        port = listener.getsockname()[1]
        if kind is ChannelKind.WEBHOOK:
            sent = WebhookSender(reach).send("shop", "ops", hook_channel(f"http://127.0.0.1:{port}/"), "", [FIRING])
        else:
            sent = MailSender(reach).send("shop", "ops", mail_channel(f"127.0.0.1:{port}"), "", [FIRING])
        assert sent.sent is (kind is ChannelKind.WEBHOOK and said.startswith(b"HTTP")), sent.says
        dripping.result(10)
