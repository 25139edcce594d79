"""Manifests as people and programs write them, each with the names of the workloads in it."""

from __future__ import annotations

from typing import Final

DEPLOYMENT: Final = """\
# The shop's front end.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web   # as in DNS
  labels: &labels {app: web}
spec:
  replicas: 3
  selector:
    matchLabels: *labels
  template:
    metadata:
      labels: *labels
      annotations:
        # what a Pod may send
        podlane.io/egress-bandwidth: "50M"
        podlane.io/classes: |
          - name: api
            rate: 5Mbit
            match: {sni: "*.example.com"}

        prometheus.io/scrape: 'true'
    spec:
      # one container is enough
      containers:
        # pinned
        - name: app
          image: "registry.example.com/app:1.0"
          args: ['--verbose',  "--port", 8080]
          command:
          - sh
          - -c
          - |+
            echo "started"

        # - name: debug
        #   image: busybox
      volumes:
        - name: data
          emptyDir: {}
      # the end
"""

STATEFUL_SET: Final = """\
apiVersion: apps/v1
kind: StatefulSet
metadata:
  name: db
spec:
  serviceName: db
  template:
    metadata:
      annotations: {podlane.io/egress-bandwidth: 10M, team: data}
    spec:
      terminationGracePeriodSeconds: 120
      initContainers:
      - {name: migrate, image: "migrate:1"}
      containers:
      - name: postgres
        image: postgres:17
      - name: exporter   # last
        image: exporter:1
  volumeClaimTemplates:
  - metadata: {name: data}
"""

CRON_JOB: Final = """\
---
apiVersion: batch/v1
kind: CronJob
metadata:
  name: backup
spec:
  schedule: "0 3 * * *"
  jobTemplate:
    spec:
      template:
        metadata:
          annotations:
            podlane.io/egress-bandwidth: 5M
        spec:
          restartPolicy: OnFailure
          containers: [{name: backup, image: "backup:1"}]
...
"""

JSON_COMPACT: Final = (
    '{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","annotations":{"podlane.io/egress-bandwidth":"10M"}},'
    '"spec":{"containers":[{"name":"a"}],"volumes":[]}}'
)

JSON_PRETTY: Final = """\
{
    "apiVersion": "batch/v1",
    "kind": "Job",
    "metadata": {
        "name": "once"
    },
    "spec": {
        "template": {
            "metadata": {
                "annotations": {
                    "podlane.io/egress-bandwidth": "10M"
                }
            },
            "spec": {
                "containers": [
                    {
                        "name": "a"
                    },
                    {
                        "name": "b"
                    }
                ],
                "imagePullSecrets": [{"name": "theirs"}],
                "initContainers": [
                    {"name": "istio-init"},
                    {"name": "migrate"}
                ],
                "restartPolicy": "Never"
            }
        }
    }
}
"""

JSON_TABS: Final = JSON_PRETTY.replace("    ", "\t")

LIST: Final = """\
apiVersion: v1
kind: List
items:
- apiVersion: apps/v1
  kind: DaemonSet
  metadata: {name: agent, namespace: a}
  spec:
    template:
      metadata: {annotations: {podlane.io/egress-bandwidth: 1G}}
      spec: {containers: [{name: agent, image: "agent:1"}]}
- apiVersion: v1
  kind: ConfigMap
  metadata: {name: unrelated}
- kind: ReplicaSet
  apiVersion: apps/v1
  metadata: {name: rs}
  spec:
    template:
      spec:
        containers:
        - name: a
        - name: b
      metadata:
        annotations:
          podlane.io/egress-bandwidth: 10M
- apiVersion: v1
  kind: ReplicationController
  metadata: {name: rc}
  spec: {template: {metadata: {annotations: {podlane.io/egress-bandwidth: 10M}}, spec: {initContainers: [], containers: []}}}
"""

STREAM: Final = f"""\
# comment before anything
%YAML 1.1
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
---
# nothing here
---
{DEPLOYMENT}---
{STATEFUL_SET}{CRON_JOB}"""

_POD: Final = """\
kind: Pod
apiVersion: v1
metadata: {annotations: {podlane.io/egress-bandwidth: 1M}, name: p}
spec:
"""

TEXTS: Final[dict[str, tuple[str, list[str]]]] = {
    "deployment": (DEPLOYMENT, ["Deployment/web"]),
    "stateful set": (STATEFUL_SET, ["StatefulSet/db"]),
    "cron job": (CRON_JOB, ["CronJob/backup"]),
    "compact JSON": (JSON_COMPACT, ["Pod/p"]),
    "pretty JSON": (JSON_PRETTY, ["Job/once"]),
    "JSON with tabs": (JSON_TABS, ["Job/once"]),
    "list": (LIST, ["DaemonSet/agent", "ReplicaSet/rs", "ReplicationController/rc"]),
    "stream": (STREAM, ["Deployment/web", "StatefulSet/db", "CronJob/backup"]),
    "no line break at the end": (STATEFUL_SET.removesuffix("\n"), ["StatefulSet/db"]),
    "ends with the list": (f"{_POD}  initContainers:\n  - name: i\n  containers:\n  - name: a", ["Pod/p"]),
    "kept blank lines at the end": (f"{_POD}  containers:\n  - name: a\n    args:\n    - |+\n      x\n\n\n", ["Pod/p"]),
    "windows line ends": (DEPLOYMENT.replace("\n", "\r\n"), ["Deployment/web"]),
    "byte order mark": (f"\ufeff{DEPLOYMENT}", ["Deployment/web"]),
    "letters beyond ASCII": (DEPLOYMENT.replace("front end", "Größe 🛣").replace("app:1.0", "äpp"), ["Deployment/web"]),
}
