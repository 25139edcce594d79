"""Coverage-guided fuzzing of everything that strangers' bytes get into: ``make fuzz``.

    python -m tests.fuzz.fuzz [--seconds N] [--rounds N] [--until N] [NAME ...]

Each harness runs for so many seconds under atheris (libFuzzer), one after the other, and goes on where it was the last
time: what it has learnt is in out/fuzz/NAME. How many executions there have been in all is in out/fuzz/executions.json.
A find is kept in out/fuzz and makes the exit code 1; `python -m tests.fuzz.fuzz --replay FILE NAME` shows it again.
"""

from __future__ import annotations

import argparse
import fcntl
import gc
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from tests.fuzz.json_mutation import mutated
from tests.fuzz.paths import Tried
from tests.fuzz.targets import CORPUS, HERE, TARGETS, Target

OUT: Final = Path("out/fuzz")
_RECORD: Final = "executions.json"
_COUNTED: Final = ("executions", "seconds", "cpu_seconds", "finds")
_SLOWEST: Final = 10
"""Seconds after which one input counts as a find."""
_MOST_MEMORY: Final = 1024
"""MiB likewise, of the whole process."""
_EXECUTED: Final = re.compile(rb"stat::number_of_executed_units:\s*(\d+)")


def main() -> int:
    """Run as the command line says."""
    parser = argparse.ArgumentParser(description="Fuzz Podlane's parsers under atheris.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(TARGETS)}; all when none is given")
    parser.add_argument("--seconds", type=int, default=60, help="for each harness and round (default: 60)")
    parser.add_argument("--rounds", type=int, default=1, help="how often all have their turn (default: 1)")
    parser.add_argument("--until", type=int, metavar="N", help="pass over a harness that has had N executions in all")
    parser.add_argument("--out", type=Path, default=OUT, help=f"where finds and what was learnt go (default: {OUT})")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input, without atheris")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if unknown := set(given.names) - set(TARGETS):
        parser.error(f"there is no harness {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    targets = [TARGETS[name] for name in given.names or TARGETS]
    if given.replay is not None:
        data = given.replay.read_bytes()
        for target in targets:
            target.load()(data)
        return 0
    if given.child:
        _fuzz(targets[0], given.out, given.seconds)
    for _ in range(given.rounds):
        for target in targets:
            if given.until is not None and known(given.out).get(target.name, {}).get("executions", 0) >= given.until:
                continue
            if not run(target, given.out, given.seconds):
                return 1
    return 0


def run(target: Target, out: Path, seconds: int) -> bool:
    """Fuzz for some seconds in a process of its own; whether nothing was found."""
    out = out.resolve()
    (out / target.name).mkdir(parents=True, exist_ok=True)
    started, cpu = time.monotonic(), _cpu_of_children()
    log = out / f"{target.name}.log"
    with log.open("wb") as stream:
        command = [sys.executable, "-m", "tests.fuzz.fuzz", "--child", "--out", out, "--seconds", seconds, target.name]
        done = subprocess.run(
            [str(part) for part in command], cwd=HERE.parents[1], stdout=stream, stderr=stream, check=False
        )
    said = log.read_bytes()
    count = _EXECUTED.search(said)
    if count is None and done.returncode == 0:
        raise RuntimeError(f"atheris did not say how much it did; see {log}")
    entry = record(
        out,
        target,
        executions=int(count[1]) if count else 0,
        seconds=round(time.monotonic() - started, 1),
        cpu_seconds=round(_cpu_of_children() - cpu, 1),
        finds=int(done.returncode != 0),
    )
    print(f"{target.name:<13} {entry['executions']:>12,} executions in {entry['seconds']:,.0f} s", flush=True)
    if done.returncode:
        sys.stderr.write(said[-4000:].decode("utf-8", "replace"))
        print(f"{target.name}: exit code {done.returncode}; the whole log is {log}", file=sys.stderr)
    return done.returncode == 0


def known(out: Path) -> dict[str, Any]:
    """What there has been, by harness."""
    path = out / _RECORD
    return dict(json.loads(path.read_text())) if path.exists() else {}


def _cpu_of_children() -> float:
    """Seconds of CPU that processes have taken which were started here and are over."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def record(out: Path, target: Target, **more: float) -> dict[str, Any]:
    """Add to what is known of a harness, and give that. Another process may do so, too."""
    with (out / f"{_RECORD}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        all_known = known(out)
        before = all_known.get(target.name, {})
        entry = all_known[target.name] = {key: before.get(key, 0) + more[key] for key in _COUNTED}
        fresh = out / f"{_RECORD}.new"
        fresh.write_text(json.dumps(all_known, indent=2) + "\n")
        fresh.replace(out / _RECORD)
    return entry


def _fuzz(target: Target, out: Path, seconds: int) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris

    words = out / f"{target.name}.dict"
    words.write_text("".join(f'"{_quoted(word)}"\n' for word in target.words))
    hooks = atheris.instrument_imports(include=list(target.code))
    # Comparisons are not told: executions are up to twice as fast without that, and more is learnt in the same time.
    hooks._trace_dataflow = False
    with hooks:
        harness = target.load()
    folders = out / target.name, CORPUS / target.name
    kept = [path.read_bytes() for folder in folders for path in folder.iterdir()]
    gc.freeze()  # what is there by now stays
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={target.most}",
        f"-timeout={_SLOWEST}",
        f"-rss_limit_mb={_MOST_MEMORY}",
        f"-artifact_prefix={out / target.name}-",
        *([f"-dict={words}"] if target.words else []),
        "-print_final_stats=1",
        "-use_value_profile=0",
        *map(str, folders),
    ]
    mutator = {}
    if target.is_json:
        mutator["custom_mutator"] = lambda data, most, seed: mutated(data, most, seed, atheris.Mutate)
    tried = Tried(harness, target.share, kept, atheris)
    atheris.Setup(arguments, tried, enable_python_coverage=True, **mutator)
    atheris.Fuzz()


def _quoted(word: str) -> str:
    r"""As a dictionary of libFuzzer has it: quotes and backslashes are escaped, but for ``\xNN``."""
    return re.sub(r'"|\\(?!x[0-9a-f]{2})', lambda found: "\\" + found[0], word)


if __name__ == "__main__":
    sys.exit(main())
