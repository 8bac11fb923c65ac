"""PersonaPlex itself: a full-duplex speech model for many callers at once (extra `engine`).

The only package that imports torch, and only `commands` imports it. `config`, `layout` and `checkpoint` are
what is loaded; `voices`, `loudness`, `text` and `prompt` what a conversation begins with; `stepper` is the
model as the rest sees it; `offline` and `bench` work with it.

`model` is that stepper: one tick of `mimi`, the language model and `mimi` again for all slots, as a `graph`
where there is CUDA. `lm` and `linear` are weights and arithmetic without state; `lm_slots` holds
conversations, with `attention` (rings of keys and values, `varlen` to read them), `sampling` and `prefix`.
`streaming` is to `mimi` what these are to `lm`.
"""
