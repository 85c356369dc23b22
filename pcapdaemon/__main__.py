# See LICENSE for details.
"""
C{python -m pcapdaemon}: the command line.
"""

from pcapdaemon.cli.main import main

if __name__ == "__main__":
    main(prog_name="pcapdaemon")
