import { afterEach, describe, expect, it, vi } from "vitest";
import { chatUrl, DEFAULT_SAMPLING, engineUrl, offerOf, problemOf, type Setup, storedSetup } from "./setup.ts";

const setup: Setup = {
  persona: null,
  voice: "NATF2.pt",
  prompt: " You are a pilot & teacher. ",
  sampling: DEFAULT_SAMPLING,
  microphoneId: "",
  loudspeakerId: "",
  headphones: false,
};
const bare = offerOf({ engine: null });
const query = (url: string) => Object.fromEntries(new URL(url).searchParams);

afterEach(() => {
  vi.unstubAllGlobals();
});

describe("the setup of a talk", () => {
  it("asks for voice, prompt and a place in the queue", () => {
    const url = chatUrl(new URL("ws://host:8998/api/chat?token=x"), setup, { ...bare, samples: false });
    expect(query(url)).toEqual({ token: "x", voice_prompt: "NATF2.pt", text_prompt: "You are a pilot & teacher.", queue: "1" });
  });

  it("asks for a persona by its name alone", () => {
    const url = chatUrl(new URL("ws://host/api/chat"), { ...setup, persona: "sales" }, { ...bare, samples: false });
    expect(query(url)).toEqual({ persona: "sales", queue: "1" });
  });

  it("sends a seed only if there is one, as NVIDIA's server fails with any", () => {
    const base = new URL("ws://host/api/chat");
    expect(query(chatUrl(base, setup, bare))).not.toHaveProperty("seed");
    const seeded = { ...setup, sampling: { ...DEFAULT_SAMPLING, seed: "42" } };
    expect(query(chatUrl(base, seeded, bare))).toMatchObject({ seed: "42", audio_topk: "250" });
  });

  it("says what is wrong before it connects", () => {
    expect(problemOf(setup, bare)).toBeNull();
    expect(problemOf({ ...setup, prompt: "  " }, bare)).toMatch("Say who");
    expect(problemOf({ ...setup, prompt: "x".repeat(2001) }, bare)).toMatch("2000");
    expect(problemOf({ ...setup, prompt: "न".repeat(900) }, bare)).toMatch("ASCII");
    // As the bridge counts: an emoji is one character, and half of one is not worth an exception.
    expect(problemOf({ ...setup, prompt: "x".repeat(1900) + "🙂".repeat(100) }, bare)).toBeNull();
    expect(problemOf({ ...setup, prompt: "half of \ud83d" }, bare)).toBeNull();
    expect(problemOf({ ...setup, sampling: { ...DEFAULT_SAMPLING, seed: "-1" } }, bare)).toMatch("seed");
  });

  it.each([
    [{ textTopK: 2048, audioTopK: 2048 }, { textTopK: 500, audioTopK: 500 }],
    [{ textTopK: 0, audioTopK: 12.4 }, { textTopK: 1, audioTopK: 12 }],
    [{ textTopK: "many", audioTopK: null }, { textTopK: 25, audioTopK: 250 }],
    [{ textTemperature: 0.3 }, { textTopK: 25, audioTopK: 250, textTemperature: 0.3 }],
  ])("keeps a stored top-k within what bridge and engine take: %j", (sampling, kept) => {
    vi.stubGlobal("localStorage", { getItem: () => JSON.stringify({ sampling }) });
    expect(storedSetup(bare).sampling).toEqual({ ...DEFAULT_SAMPLING, ...kept });
  });

  it("reads an engine's address as people write it", () => {
    const read = (written: string, secure = false) => engineUrl(written, secure)?.href ?? null;
    expect(read("localhost:8998")).toBe("ws://localhost:8998/api/chat");
    expect(read("gpu.example", true)).toBe("wss://gpu.example/api/chat");
    expect(read("https://gpu.example:8998")).toBe("wss://gpu.example:8998/api/chat");
    expect(read("ws://[::1]:8998/api/chat?key=1#x")).toBe("ws://[::1]:8998/api/chat?key=1");
    expect(read("javascript://alert(1)")).toBeNull();
    expect(read("   ")).toBeNull();
  });
});
