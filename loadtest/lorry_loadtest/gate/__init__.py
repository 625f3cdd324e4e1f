"""Whether a change made the server worse: two runs of the same requests, compared pair by pair."""
