"""How text is said: spoken forms of numbers and signs, and the symbols (phones, letters) between sound and spelling."""
