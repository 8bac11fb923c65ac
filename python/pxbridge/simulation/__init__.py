"""The simulated phone, its network and the rehearsal engine: what commands, the doctor and tests call with."""
