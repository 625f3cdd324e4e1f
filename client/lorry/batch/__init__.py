"""Many generations as one run: bounded or paced, in order, resumable, with statistics."""
