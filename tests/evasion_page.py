"""docs/explanation/evasion.md as its tests read it: the policy, and the class of each trick."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs/explanation/evasion.md").read_text()
POLICY: str = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0]


def rows(heading: str) -> dict[str, str]:
    """The cells "class" by trick, in the table under a heading."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {cells[0].strip(" `"): cells[2].strip() for cells in lines[1:]}
