"""One file per metric, found by its name through the registry."""
