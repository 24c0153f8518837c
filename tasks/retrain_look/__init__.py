"""From the shop's products to a look that finds them better, or a refusal with its reasons."""
