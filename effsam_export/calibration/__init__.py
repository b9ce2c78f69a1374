"""Real photographs and prompts for a quantizer: what they are, and what is refused."""
