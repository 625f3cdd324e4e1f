"""Shell completion: what there is to complete, and the scripts that do it."""
