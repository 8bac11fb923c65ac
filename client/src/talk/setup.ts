/** Who is talked to and how: what the page lets choose, and the URL that asks for it. */

import type { TalkedTo } from "../api/client";
import type { TalkPersona } from "../api/schema";
import { store, stored } from "../ui/storage";

export const VOICES = ["NATF", "NATM"].flatMap((family) => [0, 1, 2, 3].map((each) => `${family}${each}.pt`)).concat(
  ["VARF", "VARM"].flatMap((family) => [0, 1, 2, 3, 4].map((each) => `${family}${each}.pt`)),
);
export const DEFAULT_VOICE = "NATF0.pt";
export const DEFAULT_PROMPT_LIMIT = 2000;
/** An engine takes requests of 8190 bytes, and the prompt is a part of one. */
const LONGEST_ENCODED = 7500;
/** Bridge and engine refuse a larger one. */
export const MOST_TOP_K = 500;

export interface Preset {
  name: string;
  prompt: string;
}

export const PRESETS: readonly Preset[] = [
  { name: "Teacher", prompt: "You are a wise and friendly teacher. Answer questions or provide advice in a clear and engaging way." },
  { name: "Conversation", prompt: "You enjoy having a good conversation. Ask what the other person thinks, and tell what you think yourself." },
  {
    name: "Clinic",
    prompt:
      "You work for the front desk of Dr. Rao's clinic, and your name is Meera. You make appointments. Ask for the full name, the date of birth, and what the visit is about, one question at a time. The clinic is open from Monday to Saturday, nine to six.",
  },
  {
    name: "Bank",
    prompt:
      "You work for First Neuron Bank and your name is Alexis Kim. A payment of 1,200 dollars in a shop in Miami was declined. Verify the customer's name before you talk about it, say that the place was unusual, and offer to allow the payment.",
  },
  {
    name: "Restaurant",
    prompt:
      "You work for Jerusalem Shakshuka, which is a restaurant, and your name is Owen Foster. There are two shakshuka dishes: classic for 9 dollars 50 and spicy for 10 dollars 50. Sides: warm pita for 2 dollars, Israeli salad for 3. No combos. Take the order and ask for a pickup time.",
  },
  {
    name: "Astronaut",
    prompt:
      "You enjoy having a good conversation. You are an astronaut on a mission to Mars, and your name is Alex. The reactor core of the ship is failing, and you ask for urgent help in thinking how to stabilise it.",
  },
];

export interface Sampling {
  textTemperature: number;
  textTopK: number;
  audioTemperature: number;
  audioTopK: number;
  /** Empty for a random one. */
  seed: string;
}

/** PersonaPlex's own. */
export const DEFAULT_SAMPLING: Sampling = { textTemperature: 0.7, textTopK: 25, audioTemperature: 0.8, audioTopK: 250, seed: "" };

/** A whole number from 1 to `MOST_TOP_K`. */
export function topK(wanted: number): number {
  return Math.min(Math.max(1, Math.round(wanted) || 1), MOST_TOP_K);
}

export interface Setup {
  /** A named persona of the bridge; null to use the voice and prompt below. */
  persona: string | null;
  voice: string;
  prompt: string;
  sampling: Sampling;
  microphoneId: string;
  loudspeakerId: string;
  headphones: boolean;
}

/** What can be chosen, from the bridge, or for an engine without one. */
export interface Offer {
  voices: readonly string[];
  promptLimit: number;
  samples: boolean;
  /** The bridge's personas but the default one. */
  personas: readonly TalkPersona[];
  recorded: boolean;
  rehearsal: boolean;
  voice: string;
  prompt: string;
  /** There is no bridge: the engine is talked to directly. */
  isBare: boolean;
}

export function offerOf(to: TalkedTo): Offer {
  const prompt = PRESETS[0]!.prompt;
  if ("engine" in to) {
    const voices = to.engine?.voices.length ? to.engine.voices : VOICES;
    return {
      voices,
      promptLimit: DEFAULT_PROMPT_LIMIT,
      samples: true,
      personas: [],
      recorded: false,
      rehearsal: false,
      voice: to.engine?.default ?? voices[0] ?? DEFAULT_VOICE,
      prompt,
      isBare: true,
    };
  }
  const { voices, voice, personas, prompt_limit, samples, recorded, rehearsal } = to.bridge;
  const [own, ...others] = personas;
  return {
    voices: voices.length ? voices : VOICES,
    promptLimit: prompt_limit,
    samples,
    personas: others,
    recorded,
    rehearsal,
    voice: own?.voice ?? voice ?? DEFAULT_VOICE,
    prompt: own?.prompt ?? prompt,
    isBare: false,
  };
}

/** The address of a bare engine as somebody writes it: with or without scheme and path. Null if it is none. */
export function engineUrl(written: string, isSecurePage: boolean): URL | null {
  let text = written.trim();
  if (!text) return null;
  if (!/^[a-z]+:\/\//i.test(text)) text = `${isSecurePage ? "wss" : "ws"}://${text}`;
  let url: URL;
  try {
    url = new URL(text.replace(/^http/i, "ws"));
  } catch {
    return null;
  }
  if (!["ws:", "wss:"].includes(url.protocol) || !url.host) return null;
  if (url.pathname === "/" || url.pathname === "") url.pathname = "/api/chat";
  url.hash = "";
  return url;
}

/**
 * The URL of a talk.
 * @param base `/api/chat` of the bridge or engine. Its query is kept, as it may hold a proxy's token.
 */
export function chatUrl(base: URL, setup: Setup, offer: Offer): string {
  const url = new URL(base);
  const query = url.searchParams;
  if (setup.persona !== null) {
    query.set("persona", setup.persona);
  } else {
    query.set("voice_prompt", setup.voice);
    query.set("text_prompt", setup.prompt.trim());
  }
  if (offer.samples) {
    const { textTemperature, textTopK, audioTemperature, audioTopK, seed } = setup.sampling;
    query.set("text_temperature", String(textTemperature));
    query.set("text_topk", String(textTopK));
    query.set("audio_temperature", String(audioTemperature));
    query.set("audio_topk", String(audioTopK));
    if (seed.trim()) query.set("seed", seed.trim());
  }
  query.set("queue", "1");
  return url.toString();
}

/** As the bridge counts them: an emoji is one. */
export function characters(text: string): number {
  return [...text].length;
}

/** In a URL's query. Half an emoji, which `encodeURIComponent` throws at, counts as any other character. */
function encodedLength(text: string): number {
  return new URLSearchParams([["", text]]).toString().length - 1;
}

/** Why a talk cannot begin with this setup; null if it can. */
export function problemOf(setup: Setup, offer: Offer): string | null {
  if (setup.persona === null) {
    if (!setup.prompt.trim()) return "Say who the agent is, or choose an example.";
    if (encodedLength(setup.prompt) > LONGEST_ENCODED) return "The prompt is too long for an engine's request: each letter beyond ASCII counts several times.";
    if (characters(setup.prompt) > offer.promptLimit) return `The prompt is longer than ${offer.promptLimit} characters.`;
  }
  if (offer.samples && !/^\d{0,18}$/.test(setup.sampling.seed.trim())) return "The seed is a whole number, or empty for a random one.";
  return null;
}

const KEY = "pxbridge talk";

/** What was chosen last time, where it is still offered. */
export function storedSetup(offer: Offer): Setup {
  const fresh: Setup = {
    persona: null,
    voice: offer.voice,
    prompt: offer.prompt,
    sampling: DEFAULT_SAMPLING,
    microphoneId: "",
    loudspeakerId: "",
    headphones: false,
  };
  try {
    const last = JSON.parse(stored(KEY) ?? "{}") as Partial<Setup>;
    const text = (value: unknown, or: string) => (typeof value === "string" ? value : or);
    const sampling: Sampling = { ...fresh.sampling, ...(typeof last.sampling === "object" && last.sampling) };
    const storedTopK = (name: "textTopK" | "audioTopK") => topK(typeof sampling[name] === "number" ? sampling[name] : fresh.sampling[name]);
    return {
      persona: offer.personas.some(({ name }) => name === last.persona) ? (last.persona as string) : null,
      voice: offer.voices.includes(last.voice ?? "") ? last.voice! : fresh.voice,
      prompt: text(last.prompt, fresh.prompt),
      sampling: { ...sampling, textTopK: storedTopK("textTopK"), audioTopK: storedTopK("audioTopK") },
      microphoneId: text(last.microphoneId, ""),
      loudspeakerId: text(last.loudspeakerId, ""),
      headphones: last.headphones === true,
    };
  } catch {
    return fresh;
  }
}

export function storeSetup(setup: Setup): void {
  store(KEY, JSON.stringify(setup));
}

/** "NATF0.pt" → family and number; others by their name. */
export function voiceGroup(voice: string): string {
  const match = /^(NAT|VAR)([FM])\d+\.pt$/.exec(voice);
  if (!match) return "Other voices";
  return `${match[1] === "NAT" ? "Natural" : "Varied"}, ${match[2] === "F" ? "female" : "male"}`;
}

export function voiceName(voice: string): string {
  return voice.replace(/\.(pt|wav)$/, "");
}
