"""Rewards: a trajectory in, a float out. Only what the model itself wrote is judged."""
