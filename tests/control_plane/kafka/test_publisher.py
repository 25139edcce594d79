"""Publishing to Kafka: every event, in order, once to who drops what was seen; by one process at a time; from where it was left."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from broker import PASSWORD, USER, Broker, free_port
from starlette.testclient import TestClient
from waiting import until

from control_plane.bootstrap import first_token
from control_plane.http.app import create_app
from control_plane.outbox.errors import GapError
from control_plane.outbox.kafka import KafkaTopic, read_properties
from control_plane.outbox.link import KafkaLink
from control_plane.outbox.listener import TopicListener
from control_plane.outbox.messages import EventMessage, TopicReader
from control_plane.outbox.publisher import Publisher
from control_plane.service import ControlPlane
from control_plane.store.event_store import EventStore, open_store
from control_plane.store.records import Cause, NewEvent, StoredEvent
from traffic_policy.errors import ConfigError

ROOT = Path(__file__).parents[3]
CAUSE = Cause("ada", 1_700_000_000_123, "192.0.2.1", "für Freitag")
PATIENCE = 60.0


@pytest.fixture
def store(database_url: str) -> Iterator[EventStore]:
    with closing(open_store(database_url)) as opened:
        yield opened


@contextmanager
def publishing(store: EventStore, topic: KafkaTopic) -> Iterator[Publisher]:
    publisher = Publisher(store, topic)
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.stop()


def append(store: EventStore, tenant: str, count: int) -> None:
    head = store.heads().get(tenant)
    events = [NewEvent("policy/web", "Numbered", {"number": number, "odd": "\ud800é"}) for number in range(count)]
    store.append(tenant, head.position if head else 0, events, CAUSE)


def published(store: EventStore) -> dict[str, int]:
    with store.database.reading() as execute:
        return dict(execute("SELECT tenant, position FROM published"))


def until_published(store: EventStore) -> None:
    until(
        "all to be published",
        lambda: published(store) == {tenant: head.position for tenant, head in store.heads().items()},
        patience=PATIENCE,
    )


def logs(store: EventStore) -> dict[str, list[StoredEvent]]:
    return {tenant: list(store.read_all(tenant)) for tenant in store.heads()}


def taken(values: list[bytes]) -> dict[str, list[StoredEvent]]:
    """What a reader makes of a topic."""
    reader = TopicReader()
    found: dict[str, list[StoredEvent]] = {}
    for value in values:
        if (event := reader.take(value)) is not None:
            found.setdefault(event.tenant, []).append(event)
    return found


def test_every_event_is_published_in_order(kafka: Broker, topic: str, store: EventStore) -> None:
    append(store, "shop", 2500)
    with publishing(store, KafkaTopic(kafka.servers, topic)) as publisher:
        for number in range(5):
            append(store, "bank", 1)
            append(store, f"t{number}", 3)
        until_published(store)
        assert publisher.kafka.state.up
        assert taken(kafka.values(topic)) == logs(store)
        assert len(kafka.values(topic)) == 2500 + 5 + 15, "nothing failed, and yet some came twice"
    append(store, "shop", 1)
    with publishing(store, KafkaTopic(kafka.servers, topic)):
        until_published(store)
        assert len(kafka.values(topic)) == 2500 + 5 + 15 + 1


def test_one_publishes_at_a_time_and_the_next_goes_on(
    kafka: Broker, topic: str, store: EventStore, database_url: str
) -> None:
    with closing(open_store(database_url)) as other, publishing(store, KafkaTopic(kafka.servers, topic)) as first:
        append(store, "shop", 1)
        until_published(store)
        with publishing(other, KafkaTopic(kafka.servers, topic)) as second:
            append(other, "shop", 10)
            until_published(store)
            assert second.kafka.state.up is None, "two publish"
            first.stop()
            append(store, "shop", 10)
            until_published(store)
            assert second.kafka.state.up
    assert [event.position for event in taken(kafka.values(topic))["shop"]] == list(range(1, 22))
    assert len(kafka.values(topic)) == 21


def test_what_was_noted_too_early_or_twice_is_dropped_by_readers(kafka: Broker, topic: str, store: EventStore) -> None:
    """A publisher dies between Kafka's acknowledgement and the note of it."""
    append(store, "shop", 5)
    with publishing(store, KafkaTopic(kafka.servers, topic)):
        until_published(store)
    with store.database.writing() as execute:
        execute.later("UPDATE published SET position = 2")
    append(store, "shop", 2)
    with publishing(store, KafkaTopic(kafka.servers, topic)):
        until_published(store)
    assert len(kafka.values(topic)) == 5 + 5
    assert taken(kafka.values(topic)) == logs(store)


def test_commands_go_on_while_kafka_is_away(store: EventStore) -> None:
    with publishing(store, KafkaTopic(f"127.0.0.1:{free_port()}", "podlane.events")) as publisher:
        api = TestClient(create_app(ControlPlane(store), dependencies=[publisher.kafka]))
        until("the fault to be known", lambda: publisher.kafka.state.up is False, patience=PATIENCE)
        append(store, "shop", 3)
        answer = api.get("/healthz")
        since = datetime.fromtimestamp(publisher.kafka.state.since, UTC).isoformat(timespec="seconds")
        database, kafka = answer.json()["dependencies"]
        assert (answer.status_code, answer.json()["serving"], database["state"]) == (200, True, "up")
        assert kafka == {"name": "kafka", "state": "away", "since": since}
        assert "Kafka at 127.0.0.1" in publisher.kafka.state.why
        assert published(store) == {}


def test_other_processes_hear_of_what_was_appended(kafka: Broker, topic: str, store: EventStore) -> None:
    heard: list[str] = []
    listener = TopicListener(KafkaTopic(kafka.servers, topic), heard.append)
    listener.start()
    with publishing(store, KafkaTopic(kafka.servers, topic)):
        # It hears what comes from when it has found the partition on, each on its own.
        def heard_of(tenant: str) -> bool:
            append(store, tenant, 1)
            return tenant in heard

        until("news of the shop", lambda: heard_of("shop"), patience=PATIENCE)
        assert set(heard) == {"shop"}
        until("news of the bank", lambda: heard_of("bank"), patience=PATIENCE)
    listener.stop()


def test_a_control_plane_publishes_what_it_decides(kafka: Broker, topic: str, store: EventStore) -> None:
    plane = ControlPlane(store)
    link = KafkaLink(plane, KafkaTopic(kafka.servers, topic))
    link.start()
    try:
        first_token(plane)
        until_published(store)
        assert link.kafka.state.up
        assert taken(kafka.values(topic)) == logs(store)
    finally:
        link.stop()


def test_a_guarded_broker_wants_a_password_by_a_trusted_connection(
    kafka: Broker, topic: str, store: EventStore, tmp_path: Path
) -> None:
    def guarded(password: str, *lines: str) -> KafkaTopic:
        file = tmp_path / "kafka.properties"
        properties = ["security.protocol = SASL_SSL", "sasl.mechanism = PLAIN", f"sasl.username = {USER}"]
        file.write_text("\n".join([*properties, f"sasl.password = {password}", *lines]))
        return KafkaTopic(kafka.guarded_servers, topic, read_properties(file))

    append(store, "shop", 3)
    ca = f"ssl.ca.location = {kafka.ca_file}"
    for wrong, words in (
        (guarded("wrong", ca), "uthentication failed"),
        (guarded(PASSWORD), "certificate verify failed"),
    ):
        with publishing(store, wrong) as publisher:
            until("the fault to be told", lambda: words in publisher.kafka.state.why, patience=PATIENCE)  # noqa: B023
            assert "wrong" not in publisher.kafka.state.why
            assert published(store) == {}
    with publishing(store, guarded(PASSWORD, ca)):
        until_published(store)
    assert taken(kafka.values(topic)) == logs(store)


def test_an_event_that_is_too_large_is_told_without_its_data(kafka: Broker, topic: str, store: EventStore) -> None:
    """Not a tenant's way to hold up all others."""
    store.append("shop", 0, [NewEvent("policy/web", "Numbered", {"text": "é" * 400_000})], CAUSE)
    append(store, "shop", 1)
    with publishing(store, KafkaTopic(kafka.servers, topic)):
        until_published(store)
    first, second = taken(kafka.values(topic))["shop"]
    assert (first.data, first.digest) == (None, store.read("shop")[0].digest)
    assert second == store.read("shop")[1]


def test_a_reader_finds_out_what_is_missing() -> None:
    events = [StoredEvent("shop", position, "s", "k", {}, "a", "", "", 1, "d") for position in range(1, 6)]
    values = [EventMessage.from_event(event).value for event in events]
    reader = TopicReader()
    assert reader.take(values[1]) == events[1], "older ones may have been thrown away"
    assert reader.take(values[0]) is None
    with pytest.raises(GapError, match="GET /v1/tenants/shop/events"):
        reader.take(values[3])
    assert reader.take(values[2]) == events[2]
    assert EventMessage.from_event(events[0]).id == b"shop/1"
    assert json.loads(values[0])["position"] == 1


def test_properties_are_read_and_wrong_ones_refused(tmp_path: Path) -> None:
    file = tmp_path / "kafka.properties"
    file.write_text("# for the broker\nsecurity.protocol = SASL_SSL\nsasl.password=a=b #c\n\n")
    assert read_properties(file) == {"security.protocol": "SASL_SSL", "sasl.password": "a=b #c"}
    for text, words in (("secret", "line 1 is not"), ("acks = 0", "not yours"), ("bootstrap.servers = x", "not yours")):
        file.write_text(text)
        with pytest.raises(ConfigError, match=words) as caught:
            read_properties(file)
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_properties(tmp_path / "none")
    with pytest.raises(ConfigError, match=r"no\.such"):
        KafkaTopic("127.0.0.1:1", "x", {"no.such": "1"}).check()
    KafkaTopic("127.0.0.1:1", "x", {"security.protocol": "SSL"}).check()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kafka-config", "x"], "Give --kafka"),
        (["--kafka", "127.0.0.1:1", "--kafka-config", "/no/file"], "cannot be read"),
    ],
)
def test_what_cannot_work_is_said_at_the_start(tmp_path: Path, options: list[str], words: str) -> None:
    command = [sys.executable, "-m", "podlane", "control-plane", "--state", str(tmp_path), "--port", "0", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False), done.stderr
