"""What is specific to the operating system: memory, processes, threads, signals."""
