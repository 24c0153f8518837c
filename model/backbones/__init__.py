"""The feature extractors that the network can stand on."""
