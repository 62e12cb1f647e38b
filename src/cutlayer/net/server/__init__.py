"""The server's end: its session, its driver, its worker, its open port."""
