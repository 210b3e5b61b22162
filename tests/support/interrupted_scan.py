"""The command line, and a Ctrl-C that comes when so many matrices are measured.

A program of its own: SIGINT goes to its whole group, as a terminal sends it.
"""

import os
import signal
import sys


def main() -> None:
    number = int(sys.argv.pop(1))
    from spectrank.scanning.running import run

    real, ended = run._Tally.ended, []

    def counted(self, job):
        real(self, job)
        ended.append(job)
        if len(ended) == number:
            os.killpg(os.getpgid(0), signal.SIGINT)

    run._Tally.ended = counted
    from spectrank.cli.app import main as command

    command()


if __name__ == "__main__":
    main()
