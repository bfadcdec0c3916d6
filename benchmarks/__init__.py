"""Speed, memory and quality against other implementations: ``python -m benchmarks``."""
