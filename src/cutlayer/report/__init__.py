"""What a run looks like to its user: a run directory read back, terminal tables, `report.html`.

Knows only the files of a run directory, not how they came about; the trainer writes them.
"""
