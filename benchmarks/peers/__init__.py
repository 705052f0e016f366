"""Head to head with other toolkits: ``python -m benchmarks.peers`` measures, `llamacpp` makes what is met."""
