/** How calls and engines are told to an operator. */

import type { LiveCall, LiveEngine } from "../api/schema";
import { clock, milliseconds } from "../ui/format";

type Tone = "plain" | "good" | "warn" | "bad";

export const PHASES: Record<string, { label: string; tone: Tone }> = {
  starting: { label: "starting", tone: "plain" },
  waiting: { label: "in line", tone: "warn" },
  prompting: { label: "prompting", tone: "plain" },
  live: { label: "live", tone: "good" },
  failover: { label: "failover", tone: "bad" },
  leaving: { label: "ending", tone: "plain" },
};

export function engineTone({ state }: LiveEngine): Tone {
  return state === "ready" ? "good" : state === "unhealthy" ? "bad" : "plain";
}

/** What a row shows of a call, in values that change only when a reader would see it. */
export function rowOf(call: LiveCall, at: number) {
  const share = (value: number) => Math.round(Math.min(1, Math.max(0, value)) * SHARE_STEPS) / SHARE_STEPS;
  return {
    id: call.id,
    callKey: call.key,
    name: callerOf(call),
    carrier: call.called ? `${call.carrier} → ${call.called}` : call.carrier,
    persona: call.persona,
    recorded: call.recorded,
    phase: call.phase,
    asked: askedText(call),
    callerSpeaks: call.caller_speaks,
    agentSpeaks: call.agent_speaks,
    callerShare: share(call.caller_share),
    agentShare: share(call.agent_share),
    delay: milliseconds(call.delay_ms),
    engine: call.engine ?? "–",
    time: clock(at - call.began_at),
  };
}

export type Row = ReturnType<typeof rowOf>;

/** Bars of 56 pixels show no more. */
const SHARE_STEPS = 28;

/** Whom the operator reads of: a browser has no number. */
export function callerOf({ caller, carrier }: LiveCall): string {
  return caller || (carrier === "browser" ? "a browser" : "unknown number");
}

/** What an operator has asked for, and what has not happened yet. */
export function askedText({ operator_asked }: LiveCall): string {
  return operator_asked === "end" ? "hang-up asked" : operator_asked === "hand over" ? "hand-over asked" : "";
}

/** Phone numbers as people write them; spaces, hyphens and brackets within a number are left out. */
export function parseNumbers(written: string): string[] {
  return written
    .split(/[,;\n]/)
    .map((number) => number.replace(/[\s()-]/g, ""))
    .filter(Boolean);
}
