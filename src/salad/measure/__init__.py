"""F and M with their controls; multiple choice on text, on speech, and of the cascade; intervals."""
