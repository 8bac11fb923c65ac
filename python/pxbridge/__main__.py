"""`python -m pxbridge`: the same as the script `pxbridge`."""

import sys

from pxbridge.cli import main

sys.exit(main())
