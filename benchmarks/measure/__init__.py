"""The parts of `benchmarks/speed.py`: jobs, child processes, rounds, rows and the report."""
