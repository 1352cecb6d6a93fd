"""Where documents and utterances come from: text, speech manifests."""
