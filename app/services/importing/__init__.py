"""Reading files from outside: bounded in memory, every problem with its line."""
