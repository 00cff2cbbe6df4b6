"""Programs that score a reply: rewards of reinforcement learning that nobody has to learn."""
