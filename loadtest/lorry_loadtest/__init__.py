"""Load test for servers of one base model with many LoRA adapters, on top of locust.

Nothing here imports locust except `users`, `locust_options` and `sweep`: the import patches the
standard library of the whole process.
"""
