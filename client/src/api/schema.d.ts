// Written by `npm run types` from openapi.json, which the server's models make. Do not edit.

/** A call that lives or has ended, with its figures. Durations are in seconds; null is not known (yet). */
export interface CallFigures {
  /** Seconds since 1970. */
  began_at: number;
  phase: string;
  /** The bridge's own id of the call, which no peer can choose. */
  key: string;
  /** The address that the connection came from. */
  peer: string;
  /** The carrier's id of the call. */
  call: string;
  stream: string;
  carrier: string;
  caller: string;
  called: string;
  persona: string;
  engine: string;
  rate_hz: number;
  outcome: string;
  ended_by: string | null;
  reason: string | null;
  /** From the carrier's start message to a prompted engine. A greeting that plays meanwhile does not count. */
  setup_s: number | null;
  /** From the carrier's start message to the first sound at the caller's ear: the persona's greeting, an announcement, or the agent. */
  first_sound_s: number | null;
  /** From the carrier's start message to the agent's first audio at the caller's ear. The agent speaks after a greeting, so the greeting counts. */
  first_audio_s: number | null;
  /** From the accepted connection to the end, or until now. */
  duration_s: number;
  /** The median of the call so far. */
  mouth_to_ear_s: number | null;
  mouth_to_ear_p95_s: number | null;
  /** The newest reading, as the live page shows it. null while the engine sends nothing, and after the call's end. */
  mouth_to_ear_now_s: number | null;
  delay_phone_chunk_s: number | null;
  delay_intake_s: number | null;
  delay_engine_s: number | null;
  delay_playout_s: number | null;
  /** In the queue at the carrier, whichever carrier it is. */
  delay_exotel_s: number | null;
  /** Audio that one side did not send and the other received. */
  inserted_s: number;
  /** Audio that one side sent and the other did not receive. */
  removed_s: number;
  /** Of removed_s: not given to an engine that did not answer. */
  withheld_s: number;
  /** Not in removed_s: said before an engine was ready, or while the line opened. */
  unheard_s: number;
  longest_hole_s: number;
  longest_stall_s: number;
  /** How much faster the phone's clock runs than ours. */
  drift_ppm: number | null;
  /** Engines that were lost during the call. */
  failovers: number;
  /** How often the engine's audio was missing when it should have been played. */
  holes: number;
  /** How often the phone's audio was missing. */
  stalls: number;
  /** How often audio was withheld from an engine that did not answer. */
  holds: number;
  /** How often an engine was too slow, and got less than was said. */
  slow: number;
  /** Damaged messages from the phone. */
  malformed: number;
}

/** Live calls, the oldest first, and those that ended last, the newest first. */
export interface Calls {
  live: CallFigures[];
  recent: CallFigures[];
}

/** What was asked is being done. */
export interface Done {
  /** The call's id. */
  call: string;
}

/** Ends a call, once the agent has finished its sentence. */
export interface EndCall {
  /** The id of a live call, or the beginning of it. */
  call: string;
  /** Who asks, where the console asks for no login. */
  by?: string;
}

/** Hands a call over to a person, once the agent has finished its sentence. */
export interface HandOverCall {
  /** The id of a live call, or the beginning of it. */
  call: string;
  /** Who asks, where the console asks for no login. */
  by?: string;
  /** Rung one after the other; none: as the flow says. */
  numbers?: string[];
}

/** A live call as the table shows it. */
export interface LiveCall {
  /** The bridge's own id, unique. */
  key: string;
  /** The carrier's id of the call. */
  id: string;
  carrier: string;
  /** As the setting record_numbers says. */
  caller: string;
  called: string;
  persona: string;
  /** starting, prompting, waiting, live, failover or leaving. */
  phase: string;
  /** Seconds since 1970. */
  began_at: number;
  engine: string | null;
  /** From the caller's mouth to the answer in the ear: mouth_to_ear_now_s of a call's figures, in ms. */
  delay_ms: number | null;
  caller_speaks: boolean;
  agent_speaks: boolean;
  /** How much of the time since an agent was connected the caller has spoken, 0 to 1. */
  caller_share: number;
  agent_share: number;
  recorded: boolean;
  operator_asked: "end" | "hand over" | null;
}

/** An engine and its slots. */
export interface LiveEngine {
  name: string;
  state: "ready" | "busy" | "elsewhere" | "unhealthy";
  slots: number;
  /** Slots of calls, here or at other bridges. */
  taken: number;
  warm: number;
  idle: number;
  /** Sessions that are open or being opened, warm ones included. */
  sessions: number;
  /** Since the bridge's start: sessions that failed or were lost. An engine that says that it is full or restarts has not failed. */
  failures: number;
  /** Why it cannot be used. */
  reason: string | null;
  /** From a frame's last sample sent to its answer, the network to the engine included: median of its calls' newest readings. */
  step_ms: number | null;
}

/** A live call's figures, with its line's counters: those of `pxbridge.audio.Line.stats`. */
export interface LiveFigures {
  /** Seconds since 1970. */
  began_at: number;
  phase: string;
  /** The bridge's own id of the call, which no peer can choose. */
  key: string;
  /** The address that the connection came from. */
  peer: string;
  /** The carrier's id of the call. */
  call: string;
  stream: string;
  carrier: string;
  caller: string;
  called: string;
  persona: string;
  engine: string;
  rate_hz: number;
  outcome: string;
  ended_by: string | null;
  reason: string | null;
  /** From the carrier's start message to a prompted engine. A greeting that plays meanwhile does not count. */
  setup_s: number | null;
  /** From the carrier's start message to the first sound at the caller's ear: the persona's greeting, an announcement, or the agent. */
  first_sound_s: number | null;
  /** From the carrier's start message to the agent's first audio at the caller's ear. The agent speaks after a greeting, so the greeting counts. */
  first_audio_s: number | null;
  /** From the accepted connection to the end, or until now. */
  duration_s: number;
  /** The median of the call so far. */
  mouth_to_ear_s: number | null;
  mouth_to_ear_p95_s: number | null;
  /** The newest reading, as the live page shows it. null while the engine sends nothing, and after the call's end. */
  mouth_to_ear_now_s: number | null;
  delay_phone_chunk_s: number | null;
  delay_intake_s: number | null;
  delay_engine_s: number | null;
  delay_playout_s: number | null;
  /** In the queue at the carrier, whichever carrier it is. */
  delay_exotel_s: number | null;
  /** Audio that one side did not send and the other received. */
  inserted_s: number;
  /** Audio that one side sent and the other did not receive. */
  removed_s: number;
  /** Of removed_s: not given to an engine that did not answer. */
  withheld_s: number;
  /** Not in removed_s: said before an engine was ready, or while the line opened. */
  unheard_s: number;
  longest_hole_s: number;
  longest_stall_s: number;
  /** How much faster the phone's clock runs than ours. */
  drift_ppm: number | null;
  /** Engines that were lost during the call. */
  failovers: number;
  /** How often the engine's audio was missing when it should have been played. */
  holes: number;
  /** How often the phone's audio was missing. */
  stalls: number;
  /** How often audio was withheld from an engine that did not answer. */
  holds: number;
  /** How often an engine was too slow, and got less than was said. */
  slow: number;
  /** Damaged messages from the phone. */
  malformed: number;
  /** uplink: phone to engine; downlink: engine to phone. Samples, unless the name says more. */
  counters: Record<string, Record<string, number | null>>;
}

/** A login. */
export interface Login {
  user: string;
  password: string;
}

/** Why a request was refused. */
export interface Refused {
  /** For people. */
  error: string;
}

/** Who uses this browser. */
export interface Session {
  /** Whether this console asks for a login. */
  login: boolean;
  /** Who is logged in; null if nobody is. */
  user: string | null;
  /** The version of the bridge. */
  version: string;
}

/** How everything stands, five times a second. */
export interface Snapshot {
  type: "snapshot";
  /** Seconds since 1970. */
  at: number;
  calls: LiveCall[];
  engines: LiveEngine[];
  /** Calls that wait for an engine. */
  waiting: number;
  ready: boolean;
  /** Why no call can be taken. */
  reasons: string[];
  /** Whether the engine is the rehearsal engine, which is not a model. */
  rehearsal: boolean;
}

/** What the talk page can offer. */
export interface Talk {
  rehearsal: boolean;
  /** Whether talks with the default persona are recorded. */
  recorded: boolean;
  voices: string[];
  /** The voice to begin with. */
  voice: string | null;
  /** In characters. */
  prompt_limit: number;
  /** Whether temperature, top-k and seed have an effect. */
  samples: boolean;
  /** The first is the default. */
  personas: TalkPersona[];
}

/** An agent to talk with. */
export interface TalkPersona {
  name: string;
  voice: string;
  prompt: string;
  recorded: boolean;
  /** Whether it plays a greeting before it listens. */
  greets: boolean;
}
