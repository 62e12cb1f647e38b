"""One round of any scheme: described, priced, and played on a virtual clock. Nothing sleeps."""
