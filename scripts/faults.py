"""Disturbs runs in every way, a few hundred times, and counts what is lost: `python scripts/faults.py`.

With words, the faults alone whose names hold one: `python scripts/faults.py SIGKILL disk`. It ends with 1 if anything
was lost. `--fuzz 3000` types so many random commands instead, as tests/test_fuzz.py does.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "faults"))

from harness import ALL, IDENTICAL, REFUSED, Lab  # pyrefly: ignore[missing-import]


def main() -> None:
    """The command: a table, a line a fault."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD")
    parser.add_argument("--fuzz", type=int, metavar="N")
    given = parser.parse_args()
    words = given.words
    if given.fuzz:
        file = Path(__file__).resolve().parent.parent / "tests" / "test_fuzz.py"
        command = [sys.executable, "-m", "pytest", "-n", "0", "-q", file, f"--examples={given.fuzz}"]
        raise SystemExit(subprocess.run(command).returncode)
    chosen = {name: fault for name, fault in ALL.items() if not words or any(word in name for word in words)}
    print(f"{'fault':42}{'injected':>10}{IDENTICAL:>11}{REFUSED:>9}{'lost':>6}", flush=True)
    total = [0] * 4
    with tempfile.TemporaryDirectory() as folder:
        lab = Lab(Path(folder))
        for name, (fault, _, count) in chosen.items():
            ends, forbidden = [], False
            for number in range(count):
                try:
                    ends.append(fault(lab, random.Random(f"{name} {number}")))
                except PermissionError:
                    forbidden = True
                except AssertionError:
                    traceback.print_exc()
                    ends.append("lost")
            counts = [len(ends), *(ends.count(end) for end in (IDENTICAL, REFUSED, "lost"))]
            total = [a + b for a, b in zip(total, counts, strict=True)]
            print(_row(name + " (the system forbids it)" * forbidden, counts), flush=True)
        lab.close()
    print(_row("in all", total))
    raise SystemExit(total[-1] > 0)


def _row(name: str, counts: list[int]) -> str:
    return f"{name:42}{counts[0]:10}{counts[1]:11}{counts[2]:9}{counts[3]:6}"


if __name__ == "__main__":
    main()
