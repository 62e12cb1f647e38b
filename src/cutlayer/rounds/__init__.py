"""One round of any scheme: described, priced, and simulated on a clock. Nothing sleeps."""
