"""`python -m serve_storage DATABASE PORT`: Optuna's proxy for studies in an SQLite file."""

import sys
import warnings

from optuna.storages import RDBStorage, run_grpc_proxy_server

if __name__ == "__main__":
    warnings.simplefilter("ignore")  # it is experimental
    storage = RDBStorage(f"sqlite:///{sys.argv[1]}")
    run_grpc_proxy_server(storage, host="127.0.0.1", port=int(sys.argv[2]))
