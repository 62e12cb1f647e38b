"""What operators see of a server's run: status, a live page, metrics."""
