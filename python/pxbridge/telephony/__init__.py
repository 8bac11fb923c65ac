"""The port that carriers dial, who may come in there, and what a call needs of any carrier."""
