"""A device's end: its session, its driver, its worker."""
