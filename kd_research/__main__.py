"""`python -m kd_research COMMAND ...` is `kd COMMAND ...`."""

from kd_research.commands import main

if __name__ == "__main__":
    main()
