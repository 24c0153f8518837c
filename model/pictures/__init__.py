"""Pictures as bytes and pixels: formats, decoding, stored pixels, perceptual hashes."""
