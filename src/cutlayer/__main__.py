"""`python -m cutlayer`."""

import sys

from cutlayer.cli.main import main

sys.exit(main())
