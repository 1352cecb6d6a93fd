"""A saved model behind a port: OpenAI's HTTP routes, with sound in the questions and continuous batching behind."""
