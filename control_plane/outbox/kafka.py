"""A topic of Kafka, and what clients are told to reach it.

The producer is idempotent, and stops at the first message that is not delivered: what it has written is a part of what
it was given, without gaps. So whoever begins again at the last acknowledged position at worst repeats.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from control_plane.outbox.errors import OutboxError
from control_plane.outbox.messages import EventMessage
from traffic_policy.errors import ConfigError

_OURS: Final[dict[str, Any]] = {
    "client.id": "podlane-control-plane",
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    # As Java's clients divide keys.
    "partitioner": "murmur2_random",
    "linger.ms": 5,
    # Errors are told by a callback; the library would write them to standard error.
    "log_level": 0,
}
_PARTITIONS: Final = 12
_PATIENCE: Final = 10.0
_POLL: Final = 0.2
_ANSWER: Final = 2.0


@dataclass(frozen=True, slots=True)
class KafkaTopic:
    """``servers`` as in ``HOST:PORT,HOST:PORT``; ``extra`` are librdkafka's properties, for TLS and SASL."""

    servers: str
    name: str
    extra: Mapping[str, str] = field(default_factory=dict)

    def check(self) -> None:
        """Whether the properties are such. Asks nobody. Raises :class:`ConfigError`."""
        try:
            Producer({**self.extra, **_OURS, "bootstrap.servers": self.servers})
        except (KafkaException, ValueError, TypeError) as error:
            raise ConfigError(f"--kafka or --kafka-config is wrong: {_told(error)}. Correct it.") from None

    def create(self, ended: Callable[[], bool]) -> None:
        """Create the topic where it is missing and we may; given up once ``ended``. Raises :class:`OutboxError`."""
        faults = _Faults()
        settings: dict[str, Any] = {**self.extra, "bootstrap.servers": self.servers, "log_level": 0}
        settings["error_cb"] = faults.add
        admin = AdminClient(settings)
        [asked] = admin.create_topics(
            [NewTopic(self.name, num_partitions=_PARTITIONS, replication_factor=-1)], request_timeout=_PATIENCE
        ).values()
        deadline = time.monotonic() + _PATIENCE
        while not (asked.done() or faults.all_away or ended()) and time.monotonic() < deadline:
            admin.poll(_POLL)
        if faults.all_away and not asked.done():
            raise self.fault(faults.cause)
        try:
            asked.result(0)
        except KafkaException as error:
            fault = error.args[0]
            known = (KafkaError.TOPIC_ALREADY_EXISTS, KafkaError.TOPIC_AUTHORIZATION_FAILED)
            if fault.code() not in (*known, KafkaError.CLUSTER_AUTHORIZATION_FAILED):
                raise self.fault(fault) from None
        except TimeoutError:
            raise OutboxError(f"Kafka at {self.servers} does not answer. See that it runs.") from None

    def fault(self, error: object) -> OutboxError:
        """What to tell of a fault."""
        return OutboxError(f"Kafka at {self.servers} failed: {_told(error)}. See that it runs, and what --kafka says.")


class KafkaSender:
    """Sends to a topic. For one thread."""

    def __init__(self, topic: KafkaTopic, on_fault: Callable[[str], None]) -> None:
        """``on_fault`` is told what is wrong with Kafka while messages wait."""
        self._topic = topic
        self._on_fault = on_fault
        settings = {**topic.extra, **_OURS, "bootstrap.servers": topic.servers, "error_cb": self._failed}
        self._producer = Producer(settings)
        self._fault: KafkaError | None = None
        self._faults = _Faults()
        self._waiting = 0

    def send(self, messages: Iterable[EventMessage], ended: Callable[[], bool]) -> bool:
        """Send messages; True: Kafka has acknowledged all. False: ``ended`` said so before.

        Raises :class:`OutboxError`; then, as after False, a part of them may have arrived, and this is of no more use.
        """
        for message in messages:
            headers: Sequence[tuple[str, bytes]] = [("id", message.id)]
            while True:
                try:
                    self._producer.produce(
                        self._topic.name, message.value, message.key, headers=list(headers), on_delivery=self._delivered
                    )
                    break
                except BufferError:
                    self._producer.poll(_POLL)
                except KafkaException as error:
                    raise self._topic.fault(error) from None
                if ended():
                    return False
            self._waiting += 1
        while self._waiting:
            self._producer.flush(_POLL)
            if self._fault is not None:
                raise self._topic.fault(self._fault)
            if ended():
                return False
        return True

    def idle(self) -> None:
        """Let errors be told while there is nothing to send."""
        self._producer.poll(0)

    def answers(self) -> bool:
        """Whether there is a broker."""
        try:
            self._producer.list_topics(self._topic.name, timeout=_ANSWER)
        except KafkaException:
            return False
        self._faults = _Faults()
        return True

    def close(self) -> None:
        """Forget what waits."""
        self._producer.purge()
        self._producer.flush(_POLL)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        self._waiting -= 1
        if error is None:
            self._faults = _Faults()
        elif self._fault is None:
            self._fault = error

    def _failed(self, error: KafkaError) -> None:
        self._faults.add(error)
        if error.fatal() and self._fault is None:
            self._fault = error
        if self._faults.all_away:
            self._on_fault(str(self._topic.fault(self._faults.cause)))


class _Faults:
    """What clients were told of brokers. One of several that is away is none; of all the cause is told before."""

    def __init__(self) -> None:
        self.all_away = False
        self.cause = ""

    def add(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.all_away = True
        else:
            self.cause = _told(error)


def _told(error: object) -> str:
    if isinstance(error, KafkaException):
        error = error.args[0]
    return (error.str() if isinstance(error, KafkaError) else str(error)).rstrip(".")


def read_properties(path: Path) -> dict[str, str]:
    """Lines of ``NAME = VALUE``; those that begin with # say nothing. Raises :class:`ConfigError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        told = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigError(f"{path} cannot be read: {told}. Name a file of properties by --kafka-config.") from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name:
            # The line itself may be a password.
            raise ConfigError(f"{path}: line {number} is not NAME = VALUE. Write it so, as in security.protocol = SSL.")
        if name in _OURS or name == "bootstrap.servers":
            raise ConfigError(f"{path}: line {number}: {name} is not yours to set. Remove it.")
        found[name] = value
    return found
