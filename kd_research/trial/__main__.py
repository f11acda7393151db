"""`python -m kd_research.trial DIR`: the run of `DIR/config.yaml`, by hand or again.

By hand, a folder's configuration may come from anywhere: what it names must be known, or trusted
by `--trust`. A single run starts it trusted, for what its own command stated.
"""

import sys
from pathlib import Path

from kd_research.configuration.config import ConfigError, refuse_foreign
from kd_research.configuration.trust import take_flag
from kd_research.pools import rare_collection
from kd_research.records.printing import print_safely

if __name__ == "__main__":
    print_safely()
    arguments = take_flag(sys.argv[1:])
    try:
        if arguments:
            refuse_foreign(Path(arguments[0]))
        from kd_research.training.spoken import speak
        from kd_research.trial.run import main  # seconds, in which somebody may press Ctrl-C
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit("\nstopped before anything was done")
    rare_collection.end()
    speak()
    sys.exit(main(arguments))
