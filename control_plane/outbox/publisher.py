"""Hands what was appended to Kafka, from where it was left."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from threading import Event, Thread
from typing import Final

from control_plane.health import Dependency
from control_plane.outbox.errors import OutboxError
from control_plane.outbox.kafka import KafkaSender, KafkaTopic
from control_plane.outbox.messages import EventMessage
from control_plane.store.database import Execute, Value
from control_plane.store.errors import StoreError
from control_plane.store.event_store import EventStore
from daemon.log import Logger

_LOCK: Final = 0x506F644F
"""Whoever holds it publishes: "PodO"."""
_POLL: Final = 0.1
"""Seconds between two looks at what other processes have appended."""
_STANDBY: Final = 1.0
"""Seconds between two tries for the lock, or after a fault."""
_TENANTS: Final = 100
_EVENTS: Final = 1000
"""At most so many of a tenant at once."""

log = Logger()


class Publisher:
    """A thread that publishes, or waits until the process that does is gone.

    What Kafka has acknowledged is noted in the database by the connection that holds the lock. A publisher that has
    lost it notes nothing; what it may still send begins where the log was noted to be, and readers drop what they have
    seen.
    """

    def __init__(self, store: EventStore, topic: KafkaTopic) -> None:
        self._store = store
        self._topic = topic
        self._ending = Event()
        self._news = Event()
        self._thread = Thread(target=self._run, name="publisher", daemon=True)
        self.kafka = Dependency("kafka")
        self._database = Dependency("database")

    def start(self) -> None:
        """Begin. Waits for nobody."""
        self._thread.start()

    def wake(self, _tenant: str = "") -> None:
        """Look now: something was appended. Any thread may call it."""
        self._news.set()

    def stop(self) -> None:
        """End. What was not acknowledged is sent by whoever comes next."""
        self._ending.set()
        self._news.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ending.is_set():
            try:
                with self._store.database.alone(_LOCK) as execute:
                    self._database.is_up()
                    if execute is not None:
                        self._publish(execute)
            except StoreError as error:
                if self._database.is_away(str(error)):
                    log.warning("publishing waits for the database", error=str(error))
            except OutboxError as error:
                self._away(str(error))
            self._ending.wait(_STANDBY)

    def _publish(self, execute: Execute) -> None:
        self._topic.create(self._ending.is_set)
        self._up()
        with closing(KafkaSender(self._topic, self._away)) as sender:
            while not self._ending.is_set():
                self._news.clear()
                if not self._round(execute, sender.send) and not self._ending.is_set():
                    sender.idle()
                    if not self.kafka.state.up and sender.answers():
                        self._up()
                    self._news.wait(_POLL)

    def _round(self, execute: Execute, send: Callable[[list[EventMessage], Callable[[], bool]], bool]) -> bool:
        """Publish some events of each tenant that has news; whether there were any."""
        behind = execute(
            "SELECT heads.tenant, COALESCE(published.position, 0) FROM heads "
            "LEFT JOIN published ON published.tenant = heads.tenant "
            "WHERE heads.position > COALESCE(published.position, 0) ORDER BY heads.tenant LIMIT ?",
            (_TENANTS,),
        )
        messages, reached = [], dict[str, int]()
        for tenant, after in behind:
            for event in self._store.read(tenant, after, _EVENTS):
                messages.append(EventMessage.from_event(event))
                reached[tenant] = event.position
        if not messages or not send(messages, self._ending.is_set):
            return False
        self._up()
        values: list[Value] = [value for pair in reached.items() for value in pair]
        execute.later(
            f"INSERT INTO published (tenant, position) VALUES {', '.join(['(?, ?)'] * len(reached))} "
            "ON CONFLICT (tenant) DO UPDATE SET position = excluded.position",
            values,
        )
        return True

    def _up(self) -> None:
        if self.kafka.is_up():
            log.info("publishing to Kafka", servers=self._topic.servers, topic=self._topic.name)

    def _away(self, why: str) -> None:
        if self.kafka.is_away(why):
            log.warning("Kafka is away; commands go on, and are published later", error=why)
