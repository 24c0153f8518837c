"""The network, its training, its evaluation and its use; knows arrays and pictures, never storage."""
