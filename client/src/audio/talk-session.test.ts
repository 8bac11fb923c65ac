import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import type { TalkState } from "./conversation.ts";
import type { FromWorker, ToWorker } from "./engine.worker.ts";
import { type TalkOptions, TalkSession } from "./talk-session.ts";

vi.mock("./duplex.worklet.ts?worker&url", () => ({ default: "duplex.js" }));
vi.mock("./engine.worker.ts?worker&url", () => ({ default: "engine.js" }));

const OPTIONS: TalkOptions = { url: "ws://host/api/chat", isForeign: false, microphoneId: "", loudspeakerId: "", headphones: false, mayUseWebCodecs: true };
const LISTENING: TalkState = { name: "listening", agentLost: false, stalled: false };

class FakeStream {
  readonly track = { isOpen: true, addEventListener: () => undefined, stop: () => (this.track.isOpen = false) };
  getTracks = () => [this.track];
  getAudioTracks = () => [this.track];
}

class FakeWorker {
  onmessage!: (event: { data: FromWorker }) => void;
  onerror!: (event: { preventDefault(): void; message: string }) => void;
  sent: ToWorker[] = [];
  constructor() {
    workers.push(this);
  }
  postMessage(message: ToWorker): void {
    this.sent.push(message);
  }
  terminate(): void {}
  tells(state: TalkState): void {
    this.onmessage({ data: { type: "state", state } });
  }
  fails(): void {
    this.onerror({ preventDefault: () => undefined, message: "it is broken" });
  }
  get asked(): string[] {
    return this.sent.map(({ type }) => type);
  }
}

const node = () => ({ port: { postMessage: () => undefined }, connect: (to: unknown) => to, disconnect: () => undefined });

class FakeContext {
  state = "running";
  sampleRate = 48000;
  audioWorklet = { addModule: () => loadModule() };
  resume = async () => undefined;
  close = async () => void (this.state = "closed");
  createMediaStreamSource = () => makeSource();
  constructor() {
    contexts.push(this);
  }
}

let contexts: FakeContext[];
let streams: FakeStream[];
let workers: FakeWorker[];
/** What the browser does where some of them fail or are slow. */
let loadModule: () => Promise<void>;
let makeSource: () => ReturnType<typeof node>;

const refuseSource = (): never => {
  throw new DOMException("the rates differ", "NotSupportedError");
};

beforeEach(() => {
  contexts = [];
  streams = [];
  workers = [];
  loadModule = async () => undefined;
  makeSource = node;
  vi.useFakeTimers();
  vi.stubGlobal("window", { isSecureContext: true });
  const getUserMedia = async () => {
    streams.push(new FakeStream());
    return streams.at(-1);
  };
  vi.stubGlobal("navigator", { mediaDevices: { getUserMedia, enumerateDevices: async () => [] } });
  vi.stubGlobal("AudioContext", FakeContext);
  vi.stubGlobal("AudioWorkletNode", function AudioWorkletNode() {
    return node();
  });
  vi.stubGlobal("Worker", FakeWorker);
});

afterEach(() => {
  vi.useRealTimers();
  vi.unstubAllGlobals();
});

const openMicrophones = () => streams.filter(({ track }) => track.isOpen).length;

async function started(): Promise<{ session: TalkSession; worker: FakeWorker }> {
  const session = new TalkSession();
  await session.start(OPTIONS);
  return { session, worker: workers.at(-1)! };
}

describe("a talk of the page", () => {
  it("begins with one open microphone, and closes it when the caller hangs up", async () => {
    const { session, worker } = await started();
    expect(session.snapshot.state).toEqual({ name: "connecting" });
    expect(openMicrophones()).toBe(1);
    worker.tells(LISTENING);
    session.hangUp();
    expect(worker.asked).toEqual(["start", "hang up"]);
    expect(openMicrophones()).toBe(0);
    worker.tells({ name: "ended", isFault: false, reason: "You ended the call." });
    expect(session.snapshot.state).toMatchObject({ name: "ended", isFault: false });
  });

  it("closes a new microphone that the context does not take", async () => {
    const { session } = await started();
    makeSource = refuseSource;
    await session.useMicrophone("other", false);
    expect(streams).toHaveLength(2);
    expect(openMicrophones()).toBe(0);
    expect(session.snapshot.microphoneLost).toBe(true);
  });

  it("does not begin if it is cancelled while a second context loads, as Firefox needs one", async () => {
    let loaded = (): void => undefined;
    loadModule = () => (contexts.length < 2 ? Promise.resolve() : new Promise((resolve) => (loaded = resolve)));
    makeSource = () => (contexts.length < 2 ? refuseSource() : node());
    const session = new TalkSession();
    const starting = session.start(OPTIONS);
    await vi.waitUntil(() => contexts.length === 2);
    session.hangUp();
    loaded();
    await starting;
    expect(workers).toEqual([]);
    expect(openMicrophones()).toBe(0);
    expect(contexts.map(({ state }) => state)).toEqual(["closed", "closed"]);
    expect(session.snapshot.state).toEqual({ name: "idle" });
  });

  it("hangs up when its worker fails, and stays ended with that reason", async () => {
    const { session, worker } = await started();
    worker.tells(LISTENING);
    worker.fails();
    expect(worker.asked).toEqual(["start", "hang up"]);
    worker.tells({ ...LISTENING, stalled: true });
    worker.tells({ name: "ended", isFault: false, reason: "You ended the call." });
    expect(session.snapshot.state).toMatchObject({ name: "ended", isFault: true, reason: expect.stringContaining("it is broken") });
    vi.advanceTimersByTime(5000);
    expect(openMicrophones()).toBe(0);
  });

  it("may begin again after its worker failed", async () => {
    const { session, worker } = await started();
    worker.fails();
    await session.start(OPTIONS);
    expect(workers).toHaveLength(2);
    workers[1]!.tells(LISTENING);
    expect(session.snapshot.state).toEqual(LISTENING);
  });

  it("asks the worker again if the caller hangs up again before it has ended", async () => {
    const { session, worker } = await started();
    session.hangUp();
    session.hangUp();
    expect(worker.asked).toEqual(["start", "hang up", "hang up"]);
    expect(session.isActive).toBe(false);
  });

  it("begins muted if the key is held while the browser asks for the microphone", async () => {
    const session = new TalkSession();
    const starting = session.start(OPTIONS);
    session.holdMute(true);
    await starting;
    expect(session.snapshot.muted).toBe(true);
    expect(workers[0]!.sent.slice(1)).toEqual([{ type: "mute", muted: true }]);
    session.holdMute(false);
    expect(workers[0]!.sent.at(-1)).toEqual({ type: "mute", muted: false });
  });
});
