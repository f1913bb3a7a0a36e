"""`python -m tapadl` is `tapadl`."""

import sys

from tapadl.cli import main

sys.exit(main())
