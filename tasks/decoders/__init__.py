"""Decoding in processes of their own: what a picture does to its decoder, it does to nothing else.

`pool` is the side of whoever has pictures, `server` the process that forks decoders, `worker` what each of them does.
"""
