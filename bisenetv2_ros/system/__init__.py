"""Memory and child processes of the operating system."""
