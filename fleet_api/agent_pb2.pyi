from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class EnrolRequest(_message.Message):
    __slots__ = ("cluster", "node", "csr", "join_token", "service_account_token")
    CLUSTER_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    CSR_FIELD_NUMBER: _ClassVar[int]
    JOIN_TOKEN_FIELD_NUMBER: _ClassVar[int]
    SERVICE_ACCOUNT_TOKEN_FIELD_NUMBER: _ClassVar[int]
    cluster: str
    node: str
    csr: bytes
    join_token: str
    service_account_token: str
    def __init__(self, cluster: _Optional[str] = ..., node: _Optional[str] = ..., csr: _Optional[bytes] = ..., join_token: _Optional[str] = ..., service_account_token: _Optional[str] = ...) -> None: ...

class Credentials(_message.Message):
    __slots__ = ("certificate_chain", "roots", "renew_at")
    CERTIFICATE_CHAIN_FIELD_NUMBER: _ClassVar[int]
    ROOTS_FIELD_NUMBER: _ClassVar[int]
    RENEW_AT_FIELD_NUMBER: _ClassVar[int]
    certificate_chain: str
    roots: str
    renew_at: int
    def __init__(self, certificate_chain: _Optional[str] = ..., roots: _Optional[str] = ..., renew_at: _Optional[int] = ...) -> None: ...

class FromAgent(_message.Message):
    __slots__ = ("hello", "applied", "report", "health", "renew", "answer", "names")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    APPLIED_FIELD_NUMBER: _ClassVar[int]
    REPORT_FIELD_NUMBER: _ClassVar[int]
    HEALTH_FIELD_NUMBER: _ClassVar[int]
    RENEW_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    applied: Applied
    report: Report
    health: Health
    renew: Renew
    answer: Answer
    names: NamesSeen
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., applied: _Optional[_Union[Applied, _Mapping]] = ..., report: _Optional[_Union[Report, _Mapping]] = ..., health: _Optional[_Union[Health, _Mapping]] = ..., renew: _Optional[_Union[Renew, _Mapping]] = ..., answer: _Optional[_Union[Answer, _Mapping]] = ..., names: _Optional[_Union[NamesSeen, _Mapping]] = ...) -> None: ...

class ToAgent(_message.Message):
    __slots__ = ("desired", "watch", "credentials", "question", "move")
    DESIRED_FIELD_NUMBER: _ClassVar[int]
    WATCH_FIELD_NUMBER: _ClassVar[int]
    CREDENTIALS_FIELD_NUMBER: _ClassVar[int]
    QUESTION_FIELD_NUMBER: _ClassVar[int]
    MOVE_FIELD_NUMBER: _ClassVar[int]
    desired: Desired
    watch: Watch
    credentials: Credentials
    question: Question
    move: Move
    def __init__(self, desired: _Optional[_Union[Desired, _Mapping]] = ..., watch: _Optional[_Union[Watch, _Mapping]] = ..., credentials: _Optional[_Union[Credentials, _Mapping]] = ..., question: _Optional[_Union[Question, _Mapping]] = ..., move: _Optional[_Union[Move, _Mapping]] = ...) -> None: ...

class Move(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Hello(_message.Message):
    __slots__ = ("version", "node_labels", "kernel", "abilities", "revision", "hash", "instance")
    class NodeLabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    VERSION_FIELD_NUMBER: _ClassVar[int]
    NODE_LABELS_FIELD_NUMBER: _ClassVar[int]
    KERNEL_FIELD_NUMBER: _ClassVar[int]
    ABILITIES_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    version: str
    node_labels: _containers.ScalarMap[str, str]
    kernel: str
    abilities: _containers.RepeatedScalarFieldContainer[str]
    revision: int
    hash: bytes
    instance: str
    def __init__(self, version: _Optional[str] = ..., node_labels: _Optional[_Mapping[str, str]] = ..., kernel: _Optional[str] = ..., abilities: _Optional[_Iterable[str]] = ..., revision: _Optional[int] = ..., hash: _Optional[bytes] = ..., instance: _Optional[str] = ...) -> None: ...

class Desired(_message.Message):
    __slots__ = ("revision", "hash", "base", "policies", "removed")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    BASE_FIELD_NUMBER: _ClassVar[int]
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    revision: int
    hash: bytes
    base: int
    policies: _containers.RepeatedCompositeFieldContainer[Policy]
    removed: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, revision: _Optional[int] = ..., hash: _Optional[bytes] = ..., base: _Optional[int] = ..., policies: _Optional[_Iterable[_Union[Policy, _Mapping]]] = ..., removed: _Optional[_Iterable[str]] = ...) -> None: ...

class Policy(_message.Message):
    __slots__ = ("name", "revision", "document", "selector", "nodes")
    class SelectorEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class NodesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    name: str
    revision: int
    document: str
    selector: _containers.ScalarMap[str, str]
    nodes: _containers.ScalarMap[str, str]
    def __init__(self, name: _Optional[str] = ..., revision: _Optional[int] = ..., document: _Optional[str] = ..., selector: _Optional[_Mapping[str, str]] = ..., nodes: _Optional[_Mapping[str, str]] = ...) -> None: ...

class Applied(_message.Message):
    __slots__ = ("revision", "hash", "programmed", "failed", "waiting", "failures", "refusal")
    REVISION_FIELD_NUMBER: _ClassVar[int]
    HASH_FIELD_NUMBER: _ClassVar[int]
    PROGRAMMED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    revision: int
    hash: bytes
    programmed: int
    failed: int
    waiting: int
    failures: _containers.RepeatedCompositeFieldContainer[WorkloadState]
    refusal: str
    def __init__(self, revision: _Optional[int] = ..., hash: _Optional[bytes] = ..., programmed: _Optional[int] = ..., failed: _Optional[int] = ..., waiting: _Optional[int] = ..., failures: _Optional[_Iterable[_Union[WorkloadState, _Mapping]]] = ..., refusal: _Optional[str] = ...) -> None: ...

class WorkloadState(_message.Message):
    __slots__ = ("workload", "state", "reason", "policy")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    workload: str
    state: str
    reason: str
    policy: str
    def __init__(self, workload: _Optional[str] = ..., state: _Optional[str] = ..., reason: _Optional[str] = ..., policy: _Optional[str] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("at", "interval_ms", "lanes", "workloads")
    AT_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_MS_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    at: int
    interval_ms: int
    lanes: _containers.RepeatedCompositeFieldContainer[LaneSum]
    workloads: _containers.RepeatedCompositeFieldContainer[WorkloadFigures]
    def __init__(self, at: _Optional[int] = ..., interval_ms: _Optional[int] = ..., lanes: _Optional[_Iterable[_Union[LaneSum, _Mapping]]] = ..., workloads: _Optional[_Iterable[_Union[WorkloadFigures, _Mapping]]] = ...) -> None: ...

class LaneSum(_message.Message):
    __slots__ = ("policy", "lane", "direction", "bytes", "packets", "dropped", "overlimits", "backlog", "workloads", "rate", "ceil", "below")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    PACKETS_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    OVERLIMITS_FIELD_NUMBER: _ClassVar[int]
    BACKLOG_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    CEIL_FIELD_NUMBER: _ClassVar[int]
    BELOW_FIELD_NUMBER: _ClassVar[int]
    policy: str
    lane: str
    direction: str
    bytes: int
    packets: int
    dropped: int
    overlimits: int
    backlog: int
    workloads: int
    rate: int
    ceil: int
    below: int
    def __init__(self, policy: _Optional[str] = ..., lane: _Optional[str] = ..., direction: _Optional[str] = ..., bytes: _Optional[int] = ..., packets: _Optional[int] = ..., dropped: _Optional[int] = ..., overlimits: _Optional[int] = ..., backlog: _Optional[int] = ..., workloads: _Optional[int] = ..., rate: _Optional[int] = ..., ceil: _Optional[int] = ..., below: _Optional[int] = ...) -> None: ...

class NamesSeen(_message.Message):
    __slots__ = ("names", "matches")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    MATCHES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedCompositeFieldContainer[SeenName]
    matches: _containers.RepeatedCompositeFieldContainer[MatchHits]
    def __init__(self, names: _Optional[_Iterable[_Union[SeenName, _Mapping]]] = ..., matches: _Optional[_Iterable[_Union[MatchHits, _Mapping]]] = ...) -> None: ...

class SeenName(_message.Message):
    __slots__ = ("namespace", "policy", "name", "protocol", "port", "direction", "lane", "decided", "connections", "workload")
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_FIELD_NUMBER: _ClassVar[int]
    PORT_FIELD_NUMBER: _ClassVar[int]
    DIRECTION_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    DECIDED_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    namespace: str
    policy: str
    name: str
    protocol: str
    port: int
    direction: str
    lane: str
    decided: str
    connections: int
    workload: str
    def __init__(self, namespace: _Optional[str] = ..., policy: _Optional[str] = ..., name: _Optional[str] = ..., protocol: _Optional[str] = ..., port: _Optional[int] = ..., direction: _Optional[str] = ..., lane: _Optional[str] = ..., decided: _Optional[str] = ..., connections: _Optional[int] = ..., workload: _Optional[str] = ...) -> None: ...

class MatchHits(_message.Message):
    __slots__ = ("policy", "lane", "match", "connections")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    policy: str
    lane: str
    match: bytes
    connections: int
    def __init__(self, policy: _Optional[str] = ..., lane: _Optional[str] = ..., match: _Optional[bytes] = ..., connections: _Optional[int] = ...) -> None: ...

class WorkloadFigures(_message.Message):
    __slots__ = ("workload", "lanes", "controller")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    CONTROLLER_FIELD_NUMBER: _ClassVar[int]
    workload: str
    lanes: _containers.RepeatedCompositeFieldContainer[LaneSum]
    controller: str
    def __init__(self, workload: _Optional[str] = ..., lanes: _Optional[_Iterable[_Union[LaneSum, _Mapping]]] = ..., controller: _Optional[str] = ...) -> None: ...

class Health(_message.Message):
    __slots__ = ("cpu_ms", "memory_bytes", "workloads", "programmed", "failed", "troubles")
    CPU_MS_FIELD_NUMBER: _ClassVar[int]
    MEMORY_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    PROGRAMMED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    TROUBLES_FIELD_NUMBER: _ClassVar[int]
    cpu_ms: int
    memory_bytes: int
    workloads: int
    programmed: int
    failed: int
    troubles: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, cpu_ms: _Optional[int] = ..., memory_bytes: _Optional[int] = ..., workloads: _Optional[int] = ..., programmed: _Optional[int] = ..., failed: _Optional[int] = ..., troubles: _Optional[_Iterable[str]] = ...) -> None: ...

class Renew(_message.Message):
    __slots__ = ("csr",)
    CSR_FIELD_NUMBER: _ClassVar[int]
    csr: bytes
    def __init__(self, csr: _Optional[bytes] = ...) -> None: ...

class Watch(_message.Message):
    __slots__ = ("workloads", "others", "names_every")
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    NAMES_EVERY_FIELD_NUMBER: _ClassVar[int]
    workloads: _containers.RepeatedScalarFieldContainer[str]
    others: bool
    names_every: int
    def __init__(self, workloads: _Optional[_Iterable[str]] = ..., others: _Optional[bool] = ..., names_every: _Optional[int] = ...) -> None: ...

class Question(_message.Message):
    __slots__ = ("id", "effective_policy", "diagnosis", "minutes", "connections")
    ID_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_POLICY_FIELD_NUMBER: _ClassVar[int]
    DIAGNOSIS_FIELD_NUMBER: _ClassVar[int]
    MINUTES_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    id: int
    effective_policy: str
    diagnosis: bool
    minutes: MinutesQuestion
    connections: ConnectionsQuestion
    def __init__(self, id: _Optional[int] = ..., effective_policy: _Optional[str] = ..., diagnosis: _Optional[bool] = ..., minutes: _Optional[_Union[MinutesQuestion, _Mapping]] = ..., connections: _Optional[_Union[ConnectionsQuestion, _Mapping]] = ...) -> None: ...

class ConnectionsQuestion(_message.Message):
    __slots__ = ("workload", "limit", "largest")
    WORKLOAD_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LARGEST_FIELD_NUMBER: _ClassVar[int]
    workload: str
    limit: int
    largest: bool
    def __init__(self, workload: _Optional[str] = ..., limit: _Optional[int] = ..., largest: _Optional[bool] = ...) -> None: ...

class MinutesQuestion(_message.Message):
    __slots__ = ("workloads", "after")
    WORKLOADS_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    workloads: _containers.RepeatedScalarFieldContainer[str]
    after: str
    def __init__(self, workloads: _Optional[_Iterable[str]] = ..., after: _Optional[str] = ...) -> None: ...

class Answer(_message.Message):
    __slots__ = ("id", "document", "refusal")
    ID_FIELD_NUMBER: _ClassVar[int]
    DOCUMENT_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    id: int
    document: str
    refusal: str
    def __init__(self, id: _Optional[int] = ..., document: _Optional[str] = ..., refusal: _Optional[str] = ...) -> None: ...
