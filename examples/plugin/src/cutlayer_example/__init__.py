"""One of each that cutlayer takes from other packages."""
