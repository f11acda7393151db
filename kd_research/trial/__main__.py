"""`python -m kd_research.trial DIR`: the run of `DIR/config.yaml`, by hand or again."""

import sys

from kd_research.records.printing import print_safely

if __name__ == "__main__":
    print_safely()
    try:
        from kd_research.training.spoken import speak
        from kd_research.trial.run import main  # seconds, in which somebody may press Ctrl-C
    except KeyboardInterrupt:
        sys.exit("\nstopped before anything was done")
    speak()
    sys.exit(main())
