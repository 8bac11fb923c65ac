"""PersonaPlex itself: a full-duplex speech model for many callers at once (extra `engine`).

The only package that imports torch, and only `commands` imports it. `config`, `layout` and `checkpoint` are
what is loaded; `voices`, `loudness`, `text` and `prompt` what a conversation begins with; `stepper` is the
model as the rest sees it; `offline` and `bench` work with it.
"""
