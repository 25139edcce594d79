"""``python -m podlane``."""

from __future__ import annotations

from podlane.main import main

if __name__ == "__main__":
    main(prog_name="podlane")
