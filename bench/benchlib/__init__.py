"""What the commands in `bench/` share: the machine, our binary, the peers, models, servers and reports."""
