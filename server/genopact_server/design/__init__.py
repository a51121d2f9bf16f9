"""What a risk study measures, made of public data alone: a reference panel, published effects, a budget."""
