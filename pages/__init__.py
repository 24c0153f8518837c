"""HTML from arrays and plain dataclasses: plots, overlays, the evaluation page. Knows no lake and no torch."""
