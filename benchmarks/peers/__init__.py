"""The same model in the Python model servers people pick today, each in an environment of its own.

`python -m benchmarks.peers` measures them; `peer(name)` gives one that runs, for other benchmarks.
README.md beside this file says what was tuned and why.
"""

from benchmarks.peers.load import calls_per_s
from benchmarks.peers.running import Target, peer
from benchmarks.peers.specs import PEERS

__all__ = ["PEERS", "Target", "calls_per_s", "peer"]
