"""Runs several suites of tests at once: those on the node mostly wait, those with an engine mostly compute."""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile

from harness.progress import say


def main(suites: list[str]) -> int:
    """Each suite is a line of arguments for pytest. The first one prints as it goes, the others once they have ended.

    All are of one process group, so that Ctrl-C reaches each of them and each cleans up behind itself.
    """
    say(f"==> Side by side: {', '.join(suites)} (usually 10 min)")
    with tempfile.TemporaryFile() as printed:
        first, *others = [
            subprocess.Popen(
                # The suites on the node have deadlines; the others can wait for a core.
                ["nice", "-n", "10" if number else "0", sys.executable, "-m", "pytest", *shlex.split(suite)],
                stdout=printed if number else None,
                stderr=subprocess.STDOUT if number else None,
                stdin=subprocess.DEVNULL,
            )
            for number, suite in enumerate(suites)
        ]
        interrupted = False
        for process in (first, *others):
            while process.returncode is None:
                try:
                    process.wait()
                except KeyboardInterrupt:
                    interrupted = True
        printed.seek(0)
        sys.stdout.write(printed.read().decode(errors="replace"))
        sys.stdout.flush()
        return 130 if interrupted else max(abs(process.returncode) for process in (first, *others))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
