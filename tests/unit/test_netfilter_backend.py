"""How iptables' programs are run."""

from __future__ import annotations

import os
from pathlib import Path

from datapath.netfilter.backend import BackendKind
from datapath.netfilter.restore import RestoreBackend, Tools
from datapath.netfilter.rules import Family


def test_ctrl_c_in_the_terminal_does_not_reach_iptables(tmp_path: Path) -> None:
    program = tmp_path / "iptables-save"
    program.write_text("#!/bin/sh\ncut -d' ' -f5 /proc/self/stat\n")  # proc(5): the process group
    program.chmod(0o755)
    backend = RestoreBackend(BackendKind.NFT, {Family.V4: Tools(str(program), str(program))})
    assert int(backend.read_all(Family.V4)) != os.getpgrp()
