// Shapes of the server's JSON, as its OpenAPI document has them.
export interface Session {
  login: boolean;
  user: string | null;
  version: string;
}
export interface Persona {
  name: string;
  voice: string;
  prompt: string;
  recorded: boolean;
  greets: boolean;
}
export interface Talk {
  rehearsal: boolean;
  recorded: boolean;
  voices: string[];
  voice: string | null;
  prompt_limit: number;
  samples: boolean;
  personas: Persona[];
}
export interface Call {
  id: string;
  key: string;
  carrier: string;
  caller: string;
  called: string;
  persona: string;
  phase: "starting" | "prompting" | "waiting" | "live" | "failover" | "leaving";
  began_at: number;
  engine: string | null;
  delay_ms: number | null;
  caller_speaks: boolean;
  agent_speaks: boolean;
  caller_share: number;
  agent_share: number;
  recorded: boolean;
  operator_asked: "end" | "hand over" | null;
}
export interface Engine {
  name: string;
  state: "ready" | "busy" | "unhealthy" | "elsewhere";
  slots: number;
  taken: number;
  warm: number;
  idle: number;
  sessions: number;
  failures: number;
  reason: string | null;
  step_ms: number | null;
}
export interface Snapshot {
  type: "snapshot";
  at: number;
  calls: Call[];
  engines: Engine[];
  waiting: number;
  ready: boolean;
  reasons: string[];
  rehearsal: boolean;
}
