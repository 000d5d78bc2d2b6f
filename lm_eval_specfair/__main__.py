"""``python -m lm_eval_specfair ARGS`` is ``specfair ARGS``."""

import sys

from lm_eval_specfair.cli import main

if __name__ == "__main__":
    sys.exit(main())
