"""Who may use the Ray cluster that a run starts.

Ray listens on the machine's address and runs whatever a client sends. It reads these variables when it is imported,
so this module imports no Ray, and is called before anything does.
"""

import os
import secrets

ADDRESS = "RAY_ADDRESS"
MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"


def use_a_token_of_our_own() -> None:
    """Let only this run's processes into the cluster it starts.

    Nothing changes where a cluster is joined (RAY_ADDRESS) or the user has chosen a mode (RAY_AUTH_MODE).
    """
    if os.environ.get(ADDRESS) or os.environ.get(MODE):
        return
    os.environ[MODE] = "token"
    os.environ[TOKEN] = secrets.token_hex(32)
