"""A Kafka broker of one node, as the tests of a session have it."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import trustme
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from waiting import until

ROOT = Path(__file__).parents[3]
JAVA = ["java", "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
LOGGING = """\
<Configuration><Appenders><Console name="out"><PatternLayout pattern="%d %p %c{1} %m%n"/></Console></Appenders>
<Loggers><Root level="warn"><AppenderRef ref="out"/></Root></Loggers></Configuration>
"""
READY = 90.0
USER, PASSWORD = "podlane", "open sesame"


def _write_certificate(folder: Path, ca_file: Path) -> None:
    """Kafka wants the key as PKCS#8, in one file with the chain."""
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    ca.cert_pem.write_to_path(str(ca_file))
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None)
    with (folder / "server.pem").open("wb") as stream:
        stream.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        for pem in certificate.cert_chain_pems:
            stream.write(pem.bytes())


def jars() -> Path | None:
    """Where ``tools/kafka`` has put them."""
    found = subprocess.run([ROOT / "tools" / "kafka", "--find"], capture_output=True, text=True, check=False)
    return Path(found.stdout.strip()) if found.returncode == 0 else None


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Broker:
    """Keeps its port and its data when it is killed and started again."""

    def __init__(self, folder: Path, libraries: Path) -> None:
        self._folder, self._libraries = folder, libraries
        self._process: subprocess.Popen[bytes] | None = None
        port, controller, guarded = free_port(), free_port(), free_port()
        self.servers = f"127.0.0.1:{port}"
        self.guarded_servers = f"127.0.0.1:{guarded}"
        """TLS, and the password of a user."""
        self.ca_file = folder / "ca.pem"
        _write_certificate(folder, self.ca_file)
        places = f"PLAINTEXT://127.0.0.1:{port},GUARDED://127.0.0.1:{guarded},CONTROLLER://127.0.0.1:{controller}"
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "log.dirs": str(folder / "data"),
            "controller.quorum.voters": f"1@127.0.0.1:{controller}",
            "listeners": places,
            "advertised.listeners": places,
            "controller.listener.names": "CONTROLLER",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,GUARDED:SASL_SSL,CONTROLLER:PLAINTEXT",
            "listener.name.guarded.ssl.keystore.type": "PEM",
            "listener.name.guarded.ssl.keystore.location": str(folder / "server.pem"),
            "listener.name.guarded.sasl.enabled.mechanisms": "PLAIN",
            "listener.name.guarded.plain.sasl.jaas.config": (
                f'org.apache.kafka.common.security.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
            ),
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": "0",
            "log.cleaner.dedupe.buffer.size": "4194304",
        }
        for topic in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
            settings |= {f"{topic}.replication.factor": "1", f"{topic}.min.isr": "1", f"{topic}.num.partitions": "1"}
        (folder / "server.properties").write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        (folder / "log4j2.xml").write_text(LOGGING)
        self._java(["kafka.tools.StorageTool", "format", "-t", "A" * 22, "-c"]).wait()

    def _java(self, arguments: list[str]) -> subprocess.Popen[bytes]:
        command = [*JAVA, f"-Dlog4j2.configurationFile={self._folder / 'log4j2.xml'}", "-cp", f"{self._libraries}/*"]
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [*command, *arguments, str(self._folder / "server.properties")],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

    def begin(self) -> None:
        """Start it without waiting."""
        self._process = self._java(["kafka.Kafka"])

    def start(self) -> None:
        self.begin()
        self.until_ready()

    def until_ready(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.servers, "log_level": 0})

        def answers() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (self._folder / "log").read_text()[-3000:]
            try:
                return bool(admin.list_topics(timeout=2).brokers)
            except KafkaException:
                return False

        until("the broker", answers, patience=READY)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()

    def values(self, topic: str) -> list[bytes]:
        """All there are on a topic; those of a partition in order. Nothing is ever thrown away from it."""
        consumer = Consumer(
            {"bootstrap.servers": self.servers, "group.id": "test", "enable.auto.commit": False, "log_level": 0}
        )
        try:
            partitions = [
                TopicPartition(topic, p, 0) for p in consumer.list_topics(topic, timeout=60).topics[topic].partitions
            ]
            left = sum(consumer.get_watermark_offsets(each, timeout=60)[1] for each in partitions)
            consumer.assign(partitions)
            found: list[bytes] = []
            while len(found) < left:
                message = consumer.poll(1.0)
                if message is not None:
                    assert message.error() is None, message.error()
                    value = message.value()
                    assert value is not None
                    found.append(value)
            return found
        finally:
            consumer.close()
