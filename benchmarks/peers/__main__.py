from benchmarks.peers.command import peers

peers(prog_name="python -m benchmarks.peers")
