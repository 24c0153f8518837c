"""What happens, and when: the Prefect flows, their parameters and settings."""
