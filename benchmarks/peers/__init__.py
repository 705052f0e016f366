"""Head to head with other toolkits: ``python -m benchmarks.peers``; `toolkits` makes what is met, each elsewhere."""
