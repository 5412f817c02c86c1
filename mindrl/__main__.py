"""`python -m mindrl` is `mindrl`."""

import sys

from mindrl.cli.main import main

sys.exit(main())
