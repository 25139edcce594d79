"""Before the chart is removed: waits until on each node the lanes of the agent are removed."""

import json
import ssl
import sys
import time
import urllib.request
from pathlib import Path

namespace, name, patience = sys.argv[1], sys.argv[2], float(sys.argv[3])
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
URL = f"https://kubernetes.default.svc/apis/apps/v1/namespaces/{namespace}/daemonsets/{name}"

trusted = ssl.create_default_context(cafile=ACCOUNT / "ca.crt")
deadline = time.monotonic() + patience
said = ""
while True:
    asking = urllib.request.Request(URL, headers={"Authorization": f"Bearer {(ACCOUNT / 'token').read_text()}"})
    try:
        with urllib.request.urlopen(asking, timeout=10, context=trusted) as answer:
            document = json.load(answer)
    except OSError as error:  # the Role that allows it may be a moment old
        now = str(error)
    else:
        status = document.get("status", {})
        seen = status.get("observedGeneration") == document["metadata"]["generation"]
        ready, wanted = status.get("numberReady", 0), status.get("desiredNumberScheduled", 0)
        now = f"lanes are removed on {ready} of {wanted} nodes" if seen else "the DaemonSet has not been seen yet"
        if seen and ready >= wanted:
            print(now)
            break
    if now != said:
        print(now, flush=True)
        said = now
    if time.monotonic() > deadline:
        sys.exit(
            f"{now}. The logs of the Pods of {name} say why not on the others; helm uninstall --no-hooks leaves them."
        )
    time.sleep(0.5)
