"""The records of calls: the database, its writer, recordings, and the most recent calls in memory."""
