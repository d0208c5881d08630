"""Where the log goes: layouts, files and the configurations of log4j that say so."""
