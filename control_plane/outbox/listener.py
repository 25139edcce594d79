"""Hears from the topic what other processes have appended, sooner than by looking at the database."""

from __future__ import annotations

from collections.abc import Callable
from threading import Event, Thread
from typing import Final

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from control_plane.outbox.kafka import KafkaTopic

_POLL: Final = 0.2
_PATIENCE: Final = 5.0
_AGAIN: Final = 1.0
_AT_ONCE: Final = 500


class TopicListener:
    """A thread that says which tenants have news. Nothing depends on it: what it misses is found by looking."""

    def __init__(self, topic: KafkaTopic, heard: Callable[[str], None]) -> None:
        """``heard`` is called in the thread, with a tenant, and must not block."""
        self._topic = topic
        self._heard = heard
        self._ending = Event()
        self._thread = Thread(target=self._run, name="topic listener", daemon=True)

    def start(self) -> None:
        """Begin, with what comes from now on. Waits for nobody."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        consumer = Consumer(
            {
                **self._topic.extra,
                "bootstrap.servers": self._topic.servers,
                "client.id": "podlane-control-plane",
                # Asked for, but not used: partitions are assigned by ourselves, and no offset is stored.
                "group.id": "podlane-control-plane",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        try:
            while not self._ending.is_set() and not self._assign(consumer):
                self._ending.wait(_AGAIN)
            while not self._ending.is_set():
                messages = consumer.consume(_AT_ONCE, _POLL)
                for key in {message.key() for message in messages if message.error() is None}:
                    if key is not None:
                        self._heard(key.decode())
        finally:
            consumer.close()

    def _assign(self, consumer: Consumer) -> bool:
        """Whether the topic is there."""
        name = self._topic.name
        try:
            found = consumer.list_topics(name, timeout=_PATIENCE).topics[name]
        except KafkaException:
            return False
        consumer.assign([TopicPartition(name, number, OFFSET_END) for number in found.partitions])
        return bool(found.partitions)
