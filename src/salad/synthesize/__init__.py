"""Text to speech: voices, and the job that speaks whole documents."""
