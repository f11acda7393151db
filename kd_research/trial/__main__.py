"""`python -m kd_research.trial DIR`: the run of `DIR/config.yaml`, by hand or again."""

import sys

from kd_research.records.printing import print_safely
from kd_research.trial.run import main

if __name__ == "__main__":
    print_safely()
    sys.exit(main())
