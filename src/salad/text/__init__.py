"""How text is said: the symbols (phones, letters) that stand between sound and spelling."""
