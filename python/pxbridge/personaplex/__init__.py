"""PersonaPlex itself: a full-duplex speech model for many callers at once (extra `engine`).

The only package that imports torch, and only `commands` imports it. Its parts: `config` and `checkpoint` (what is
loaded), `voices`, `loudness` and `text` (what a prompt is made of), the model, and `offline` and `bench` on top.
"""
