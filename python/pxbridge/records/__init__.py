"""What is kept of calls: the database, its writer, recordings, and the calls that ended last."""
