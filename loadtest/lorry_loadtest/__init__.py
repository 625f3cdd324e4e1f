"""Load test for servers of one base model with many LoRA adapters, on top of locust.

Nothing here imports locust except `users`, `run_events`, `shapes`, `locust_options`, `sweep` and the
scenarios: the import patches the standard library of the whole process.
"""
