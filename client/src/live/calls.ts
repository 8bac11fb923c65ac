/** How calls and engines are told to an operator. */

import type { LiveCall, LiveEngine } from "../api/schema";

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
