"""The command line: one thin function per command; errors become one line and exit code 2."""
