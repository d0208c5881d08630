"""What the server is told at its start: every setting, and the files, variables and flags that set it."""
