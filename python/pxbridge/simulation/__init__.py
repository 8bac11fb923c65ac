"""The simulated phone, its network and the rehearsal engine, for commands, the doctor and tests."""
