"""``python -m verl_multiattempt``: the command ``multiattempt``."""

import sys

from verl_multiattempt.cli import main

if __name__ == "__main__":
    sys.exit(main())
