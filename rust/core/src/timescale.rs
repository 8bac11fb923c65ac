//! WSOLA: speech made shorter or longer without changing its pitch.
