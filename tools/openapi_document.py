"""Prints the control plane's OpenAPI document, of which the types of the web pages are made (`make web-types`)."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from control_plane.http.app import create_app
from control_plane.service import ControlPlane
from control_plane.store.event_store import open_store


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:{Path(folder) / 'events.db'}")
        try:
            document = create_app(ControlPlane(store)).openapi()
        finally:
            store.close()
    # The version of the package is none of the types' business.
    document["info"]["version"] = "source"
    json.dump(document, sys.stdout, indent=1, sort_keys=True)


if __name__ == "__main__":
    main()
