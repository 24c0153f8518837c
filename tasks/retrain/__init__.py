"""From labels to a model that is promoted, or refused with its reasons."""
