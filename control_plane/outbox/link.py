"""A control plane's link to Kafka: it publishes, or waits to, and hears what others have published."""

from __future__ import annotations

from control_plane.health import Dependency
from control_plane.outbox.kafka import KafkaTopic
from control_plane.outbox.listener import TopicListener
from control_plane.outbox.publisher import Publisher
from control_plane.service import ControlPlane


class KafkaLink:
    """Threads of its own; a control plane works without it."""

    def __init__(self, plane: ControlPlane, topic: KafkaTopic) -> None:
        self._publisher = Publisher(plane.store, topic)
        self._listener = TopicListener(topic, plane.appended)
        plane.on_append.append(self._publisher.wake)

    @property
    def kafka(self) -> Dependency:
        """Whether it is there, as far as this process has to know."""
        return self._publisher.kafka

    def start(self) -> None:
        """Waits for nobody."""
        self._publisher.start()
        self._listener.start()

    def stop(self) -> None:
        """What was not acknowledged is published by another process, or the next."""
        self._publisher.stop()
        self._listener.stop()
