//! PCM to Ogg Opus bytes and back (RFC 7845): the wire of PersonaPlex, moshi and sphn.
