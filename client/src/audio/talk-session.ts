/**
 * A talk as the page sees it: microphone, audio context, worklet and worker, from "Talk" to the end.
 *
 * It holds no sound itself: the worklet and the worker exchange it by a port of their own. React reads `snapshot`,
 * which changes a few times in a talk; meters change all the time and are read by animation frames.
 */

import type { TalkState } from "./conversation.ts";
import duplexUrl from "./duplex.worklet.ts?worker&url";
import type { FromWorker, Meters, ToWorker } from "./engine.worker.ts";
import workerUrl from "./engine.worker.ts?worker&url";
import { type Devices, listDevices, MicrophoneError, type MicrophoneProblem, openMicrophone } from "./microphone.ts";

const PREFERRED_RATE_HZ = 48000;
/** A pause of the agent's words after which a new caption begins. */
const CAPTION_PAUSE_MS = 1500;
const MAX_CAPTION_CHARS = 240;
/** So long an audio context may take to run. */
const START_LIMIT_MS = 2000;
/** At the end, what is still to be heard is played for so long at most. */
const LAST_WORDS_MS = 1500;
/** Where a part of the page is missing: the bridge may have been updated meanwhile. */
const LOAD_ANEW = "Load the page anew.";

export interface TalkOptions {
  url: string;
  /** The URL is not one of this page's own server. */
  isForeign: boolean;
  microphoneId: string;
  loudspeakerId: string;
  headphones: boolean;
  mayUseWebCodecs: boolean;
}

export interface Caption {
  id: number;
  /** Since the agent began to listen. */
  atS: number;
  text: string;
}

export interface TalkSnapshot {
  /** "idle" before the first talk; "microphone" while the browser asks for it. */
  state: TalkState | { name: "idle" } | { name: "microphone" } | { name: "no microphone"; problem: MicrophoneProblem; detail: string };
  muted: boolean;
  captions: readonly Caption[];
  callId: string | null;
  /** The bridge records this call. */
  recorded: boolean;
  /** The microphone was unplugged in mid-talk: the agent hears silence. */
  microphoneLost: boolean;
  /** The system stopped the sound, as phones do for a call. */
  suspended: boolean;
  startedAtMs: number | null;
  /** There is a recording to download. */
  hasRecording: boolean;
  devices: Devices;
}

const IDLE: TalkSnapshot = {
  state: { name: "idle" },
  muted: false,
  captions: [],
  callId: null,
  recorded: false,
  microphoneLost: false,
  suspended: false,
  startedAtMs: null,
  hasRecording: false,
  devices: { microphones: [], loudspeakers: [] },
};

/** What lives from "Talk" to the end. */
interface Running {
  context: AudioContext;
  node: AudioWorkletNode;
  source: MediaStreamAudioSourceNode;
  stream: MediaStream;
}

export class TalkSession {
  snapshot: TalkSnapshot = IDLE;
  meters: Meters | null = null;
  private readonly listeners = new Set<() => void>();
  private running: Running | null = null;
  private worker: Worker | null = null;
  private attempt = 0;
  /** Counts changes of the microphone in mid-talk: the last one holds. */
  private choice = 0;
  private mutedByKey = false;
  private mutedBySwitch = false;
  private lastTextMs = 0;
  private wakeLock: WakeLockSentinel | null = null;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly getSnapshot = (): TalkSnapshot => this.snapshot;

  get isActive(): boolean {
    return !["idle", "no microphone", "ended"].includes(this.snapshot.state.name);
  }

  constructor() {
    navigator.mediaDevices?.addEventListener?.("devicechange", () => void this.updateDevices());
    void this.updateDevices();
  }

  /** Begins a talk. To be called in a click: browsers play no sound otherwise. */
  async start(options: TalkOptions): Promise<void> {
    this.release();
    this.worker?.terminate();
    this.worker = null;
    this.meters = null;
    const attempt = ++this.attempt;
    this.mutedBySwitch = false;
    this.change({ ...IDLE, devices: this.snapshot.devices, state: { name: "microphone" } });
    let context: AudioContext | undefined;
    let stream: MediaStream | undefined;
    try {
      context = makeContext();
      const loading = context.audioWorklet?.addModule(duplexUrl);
      loading?.catch(() => undefined); // told below, unless the microphone fails first
      stream = await openMicrophone({ deviceId: options.microphoneId, headphones: options.headphones });
      await loading;
      if (attempt !== this.attempt) throw new Error(); // cancelled
      let source: MediaStreamAudioSourceNode;
      try {
        source = context.createMediaStreamSource(stream);
      } catch {
        // Firefox takes a microphone only at the context's own rate.
        void context.close();
        context = new AudioContext({ latencyHint: "interactive" });
        await context.audioWorklet.addModule(duplexUrl);
        source = context.createMediaStreamSource(stream);
      }
      if (attempt !== this.attempt) throw new Error(); // cancelled while the second context loaded
      this.begin(context, source, stream, options);
    } catch (error) {
      for (const track of stream?.getTracks() ?? []) track.stop();
      void context?.close();
      if (attempt !== this.attempt) return;
      if (error instanceof MicrophoneError) this.change({ state: { name: "no microphone", problem: error.problem, detail: error.detail } });
      else this.change({ state: { name: "ended", isFault: true, reason: `The sound does not start. ${LOAD_ANEW} (${String(error)})` } });
    }
  }

  private begin(context: AudioContext, source: MediaStreamAudioSourceNode, stream: MediaStream, options: TalkOptions): void {
    const node = new AudioWorkletNode(context, "duplex", { numberOfInputs: 1, numberOfOutputs: 1, outputChannelCount: [1] });
    source.connect(node).connect(context.destination);
    this.running = { context, node, source, stream };
    this.watchTrack(stream);
    context.onstatechange = () => {
      if (this.running?.context === context) this.change({ suspended: context.state !== "running" });
    };
    void context.resume();
    // Without a loudspeaker some contexts never run, and tell no change either.
    setTimeout(() => {
      if (this.running?.context === context && context.state !== "running") this.change({ suspended: true });
    }, START_LIMIT_MS);
    void this.useLoudspeaker(options.loudspeakerId);
    void this.updateDevices();
    void this.keepAwake();

    const between = new MessageChannel();
    node.port.postMessage(between.port1, [between.port1]);
    // The worker's content policy lets it talk to other servers only if it was asked for by this name.
    const worker = new Worker(workerUrl + (options.isForeign ? "?engine" : ""), { type: "module" });
    worker.onmessage = ({ data }: MessageEvent<FromWorker>) => {
      if (this.worker === worker) this.take(data);
    };
    worker.onerror = (event) => {
      event.preventDefault();
      if (this.worker !== worker) return;
      this.tellWorker({ type: "hang up" }); // the worker lives on, and so does its connection
      this.takeState({ name: "ended", isFault: true, reason: `The sound's worker failed. ${LOAD_ANEW} (${event.message ?? "not found"})` });
    };
    this.worker = worker;
    const start: ToWorker = {
      type: "start",
      url: options.url,
      duplex: between.port2,
      contextRateHz: context.sampleRate,
      mayUseWebCodecs: options.mayUseWebCodecs,
    };
    worker.postMessage(start, [between.port2]);
    if (this.snapshot.muted) this.tellWorker({ type: "mute", muted: true }); // the key was pressed before
    this.change({ state: { name: "connecting" } });
  }

  /** Ends the talk, or leaves the queue. */
  hangUp(): void {
    this.attempt++;
    if (this.isActive) this.tellWorker({ type: "hang up" });
    if (this.running) this.release();
    else if (this.isActive) this.change({ state: { name: "idle" } });
  }

  mute(muted: boolean): void {
    this.mutedBySwitch = muted;
    this.applyMute();
  }

  /** While a key is held, the microphone is the other way round: muted, or open if it was muted. */
  holdMute(held: boolean): void {
    this.mutedByKey = held;
    this.applyMute();
  }

  /** Changes microphone or headphones in mid-talk. */
  async useMicrophone(microphoneId: string, headphones: boolean): Promise<void> {
    const running = this.running;
    if (!running) return;
    const choice = ++this.choice;
    let stream: MediaStream | undefined;
    try {
      for (const track of running.stream.getTracks()) track.stop(); // some systems open one microphone only once
      stream = await openMicrophone({ deviceId: microphoneId, headphones });
      if (this.running !== running || choice !== this.choice) {
        // The talk is over, or another one was chosen meanwhile.
        for (const track of stream.getTracks()) track.stop();
        return;
      }
      running.source.disconnect();
      running.source = running.context.createMediaStreamSource(stream);
      running.source.connect(running.node);
      running.stream = stream;
      this.watchTrack(stream);
      this.change({ microphoneLost: false });
    } catch {
      // Firefox takes a microphone only at the context's own rate.
      for (const track of stream?.getTracks() ?? []) track.stop();
      if (this.running === running && choice === this.choice) this.change({ microphoneLost: true });
    }
  }

  async useLoudspeaker(id: string): Promise<void> {
    const context = this.running?.context as (AudioContext & { setSinkId?: (id: string) => Promise<void> }) | undefined;
    try {
      await context?.setSinkId?.(id);
    } catch {
      // It was unplugged: the system's own choice plays on.
    }
  }

  /** After the system has stopped the sound; to be called in a click. */
  resume(): void {
    void this.running?.context.resume();
  }

  /** Both sides of the talk so far, as a WAV file; null if there was none. */
  recording(): Promise<Blob | null> {
    const worker = this.worker;
    if (!worker) return Promise.resolve(null);
    return new Promise((resolve) => {
      const listener = ({ data }: MessageEvent<FromWorker>) => {
        if (data.type !== "recording") return;
        worker.removeEventListener("message", listener);
        resolve(data.wav);
      };
      worker.addEventListener("message", listener);
      this.tellWorker({ type: "recording" });
    });
  }

  /** Milliseconds that the browser itself adds until sound is heard. */
  get outputMs(): number {
    const context = this.running?.context;
    if (!context) return 0;
    return 1000 * (context.baseLatency + (context.outputLatency || 0));
  }

  private take(message: FromWorker): void {
    switch (message.type) {
      case "state":
        this.takeState(message.state);
        break;
      case "text":
        this.change({ captions: this.withText(message.text) });
        break;
      case "call":
        this.change({ callId: message.id, recorded: message.recorded });
        break;
      case "meters":
        this.meters = message.meters;
        break;
    }
  }

  private takeState(state: TalkState): void {
    if (this.snapshot.state.name === "ended") return; // a new talk has another worker
    if (state.name === "listening" && this.snapshot.startedAtMs === null) {
      this.change({ state, startedAtMs: performance.now(), hasRecording: true });
    } else {
      this.change({ state });
    }
    if (state.name === "ended") {
      const running = this.running;
      if (!running) return;
      for (const track of running.stream.getTracks()) track.stop();
      const restMs = Math.min(this.meters?.playout.depthMs ?? 0, LAST_WORDS_MS);
      setTimeout(() => {
        if (this.running === running) this.release();
      }, restMs);
    }
  }

  private withText(text: string): readonly Caption[] {
    const nowMs = performance.now();
    const { captions, startedAtMs } = this.snapshot;
    const last = captions.at(-1);
    const goesOn = last && nowMs - this.lastTextMs < CAPTION_PAUSE_MS && last.text.length < MAX_CAPTION_CHARS;
    this.lastTextMs = nowMs;
    if (goesOn) return [...captions.slice(0, -1), { ...last, text: last.text + text }];
    if (!text.trim()) return captions;
    const atS = Math.max(0, nowMs - (startedAtMs ?? nowMs)) / 1000;
    return [...captions, { id: (last?.id ?? 0) + 1, atS, text: text.trimStart() }];
  }

  private applyMute(): void {
    const muted = this.mutedBySwitch !== this.mutedByKey;
    if (muted === this.snapshot.muted) return;
    this.tellWorker({ type: "mute", muted });
    this.change({ muted });
  }

  private watchTrack(stream: MediaStream): void {
    const [track] = stream.getAudioTracks();
    track?.addEventListener("ended", () => {
      if (this.running?.stream === stream && this.isActive) this.change({ microphoneLost: true });
    });
  }

  private async updateDevices(): Promise<void> {
    this.change({ devices: await listDevices().catch(() => IDLE.devices) });
  }

  private async keepAwake(): Promise<void> {
    this.wakeLock = (await navigator.wakeLock?.request("screen").catch(() => null)) ?? null;
    if (!this.running) void this.wakeLock?.release();
  }

  private release(): void {
    const running = this.running;
    this.running = null;
    void this.wakeLock?.release();
    if (!running) return;
    for (const track of running.stream.getTracks()) track.stop();
    running.node.port.postMessage("stop");
    running.source.disconnect();
    running.node.disconnect();
    void running.context.close();
  }

  private tellWorker(message: ToWorker): void {
    this.worker?.postMessage(message);
  }

  private change(part: Partial<TalkSnapshot>): void {
    this.snapshot = { ...this.snapshot, ...part };
    for (const listener of this.listeners) listener();
  }
}

function makeContext(): AudioContext {
  try {
    return new AudioContext({ sampleRate: PREFERRED_RATE_HZ, latencyHint: "interactive" });
  } catch {
    return new AudioContext({ latencyHint: "interactive" });
  }
}
