"""Whether a run's figures can be believed: thirty checks, each with the number behind it."""
