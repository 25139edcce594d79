"""Sets of values that administrators use, from none at all to everything at once."""

from __future__ import annotations

from rendering import Values

CERT_MANAGER = ("cert-manager.io/v1", "cert-manager.io/v1/Certificate")
PROMETHEUS = ("monitoring.coreos.com/v1",)
AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"

VALUE_SETS = {
    "defaults": Values({}),
    "oldest Kubernetes": Values({}, kubernetes="v1.29.15"),
    "cert-manager is there": Values({}, apis=CERT_MANAGER),
    "an issuer of your own": Values(
        {"certificates": {"source": "cert-manager", "issuerRef": {"name": "corporate", "kind": "ClusterIssuer"}}}
    ),
    "a Secret of your own": Values(
        {"certificates": {"source": "secret", "secretName": "podlane-tls", "caBundle": AUTHORITY}}
    ),
    "cert-manager is there but not wanted": Values({"certificates": {"source": "self-managed"}}, apis=CERT_MANAGER),
    "as little as possible": Values(
        {
            "injector": {"replicas": 1},
            "podDisruptionBudget": {"enabled": False},
            "networkPolicy": {"enabled": False},
            "tests": {"enabled": False},
            "serviceAccount": {"create": False, "name": "podlane"},
            "sharedPolicies": {"disabled": True},
            "webhook": {"failurePolicy": "Ignore", "excludedNamespaces": [], "ownedByNamespace": False},
        }
    ),
    "policies in two namespaces": Values(
        {"sharedPolicies": {"namespaces": ["shop", "search"], "names": ["lanes", "batch-lanes"]}}
    ),
    "everything at once": Values(
        {
            "fullnameOverride": "lanes",
            "image": {"repository": "registry.example.com:5000/net/podlane", "tag": "1.2.3", "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "registry"}],
            "sidecar": {
                "imagePullSecrets": ["registry", "other"],
                "resources": {"requests": {"cpu": 0.1, "memory": None}, "limits": {"cpu": 2, "memory": "1Gi"}},
                "adminAddress": "0.0.0.0",
                "adminPort": 9901,
                "bpf": False,
                "environment": {"PODLANE_MAX_CONNECTIONS": "2000", "PODLANE_SILENT_PORTS": "25,3306"},
            },
            "netRaw": "drop",
            "webhook": {"timeoutSeconds": 2, "namePrefix": ""},
            "injector": {
                "replicas": 5,
                "minReadySeconds": 0,
                "logFormat": "console",
                "logLevel": "debug",
                "minTlsVersion": "1.2",
                "port": 9443,
                "metricsPort": 9444,
                "resources": {"requests": {"cpu": 1, "memory": "1Gi"}},
                "podAnnotations": {"example.com/a": "b"},
                "podLabels": {"team": "network"},
                "nodeSelector": {"kubernetes.io/os": "linux"},
                "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
                "affinity": {"nodeAffinity": {}},
                "topologySpreadConstraints": [
                    {"topologyKey": "kubernetes.io/hostname", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
                ],
                "priorityClassName": "system-cluster-critical",
                "environment": {"PODLANE_INJECTOR_LINGER": "8s"},
            },
            "serviceAccount": {"name": "lanes", "annotations": {"example.com/role": "lanes"}},
            "podDisruptionBudget": {"maxUnavailable": "50%"},
            "networkPolicy": {
                "metricsFrom": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
                "apiServerPorts": [6443],
                "apiServerCidrs": ["192.0.2.0/28", "2001:db8::/64"],
            },
            "serviceMonitor": {"enabled": True, "interval": "10s", "labels": {"release": "prometheus"}},
            "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Network"}},
            "tests": {"namespace": "shop"},
        },
        apis=(*CERT_MANAGER, *PROMETHEUS),
    ),
    "API servers with certificates": Values(
        {
            "webhook": {"clientCa": {"configMap": "podlane-clients", "names": ["kube-apiserver", "spare"]}},
            "networkPolicy": {"webhooksFrom": [{"ipBlock": {"cidr": "192.0.2.0/28"}}]},
        }
    ),
    "API servers with certificates of cert-manager": Values(
        {
            "webhook": {"clientCa": {"secret": "podlane-clients", "key": "authority.pem"}},
            "networkPolicy": {"webhooksFrom": [{"podSelector": {}}]},
            "tests": {"enabled": False},
        },
        apis=CERT_MANAGER,
    ),
    "a revision": Values({"revision": "canary"}),
    "a revision whose name YAML could take for something else": Values({"revision": "true", "nameOverride": "n" * 60}),
    "beside revisions": Values({"otherRevisions": ["canary", "true"]}),
    "by digest": Values({"image": {"repository": "podlane", "digest": f"sha256:{'a' * 64}"}}),
    "a long name": Values({"nameOverride": "n" * 60}),
}
