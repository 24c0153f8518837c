"""One stage a folder: its units of work and their sequence; beside them what the stages share."""
