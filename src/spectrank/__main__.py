"""``python -m spectrank``."""

from spectrank.cli.app import main

if __name__ == "__main__":
    main()
