//! Ogg pages (RFC 3533): a writer, and a push reader that resynchronises and never dies.
