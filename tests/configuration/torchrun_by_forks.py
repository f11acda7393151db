"""`torchrun --standalone --nproc-per-node=2 -m kd_research.trial FOLDER`, its processes forked.

By torchrun's own agent, which sets the variables: only what it starts is a fork of this process.
"""

import sys

from torch.distributed.launcher.api import elastic_launch
from torch.distributed.run import config_from_args, get_args_parser

from kd_research.trial.run import main

if __name__ == "__main__":
    given = ["--standalone", "--nproc-per-node=2", "-m", "kd_research.trial", sys.argv[1]]
    arguments = get_args_parser().parse_args(given)
    arguments.rdzv_backend, arguments.rdzv_endpoint = "c10d", "localhost:0"  # of --standalone
    config, _, _ = config_from_args(arguments)
    config.start_method = "fork"
    codes = elastic_launch(config, main)([sys.argv[1]])
    sys.exit(any(codes.values()))
