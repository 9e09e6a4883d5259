"""Text of an episode: the prompt, the actions read from what the model wrote, the observations handed back."""
