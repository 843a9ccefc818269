"""Images drawn by our own code with captions, and a checker that says what is true of an image."""
