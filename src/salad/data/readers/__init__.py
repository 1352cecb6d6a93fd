"""One reader a layout of speech or text, and what tells the layouts apart."""
