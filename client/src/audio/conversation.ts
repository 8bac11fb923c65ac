/**
 * One talk with an agent over the wire: sockets, Ogg and codec, from the first connection to the end.
 *
 * Runs in the worker. It knows no browser object: sockets, time and codec are given to it.
 *
 *     connecting ─▶ preparing ◀─▶ queued
 *                      │ handshake
 *                      ▼
 *                  listening ── connection lost ──▶ reconnecting ─▶ preparing
 *     and from each of them to ended.
 */

import { BLOCK_MS } from "./block.ts";
import { audioMessage, Kind, parseMessage, pingMessage, TextReader } from "./chat-wire.ts";
import { type Codec, CODEC_RATE_HZ, type CodecOutput, PRE_SKIP } from "./codec.ts";
import { OggOpusReader, OggOpusWriter, packetSamples } from "./ogg.ts";

export type TalkState =
  | { name: "connecting" }
  /** Connected; the agent reads its prompt, or, with engines that do not say so, is busy with another caller. */
  | { name: "preparing" }
  /** Place 1 is next. */
  | { name: "queued"; place: number }
  /** The agent hears and answers. */
  | { name: "listening"; agentLost: boolean; stalled: boolean }
  | { name: "reconnecting"; attempt: number }
  | { name: "ended"; isFault: boolean; reason: string };

export type ConversationEvent =
  | { type: "state"; state: TalkState }
  | { type: "text"; text: string }
  | { type: "call"; id: string | null; recorded: boolean };

export interface Socket {
  send(message: Uint8Array<ArrayBuffer>): void;
  close(code: number): void;
  /** Bytes that the network has not taken yet. */
  readonly waitingBytes: number;
}

export interface SocketHandlers {
  opened(): void;
  message(bytes: Uint8Array): void;
  closed(code: number, reason: string): void;
}

export interface Surroundings {
  connect(handlers: SocketHandlers): Socket;
  makeCodec(output: CodecOutput): Promise<Codec>;
  nowMs(): number;
  /** Calls back after a time, until it is cancelled by what it returns. */
  after(ms: number, callback: () => void): () => void;
  tell(event: ConversationEvent): void;
  /** Sound to play, at 48 kHz. */
  play(pcm: Float32Array): void;
  /** Drops sound that was not played yet. */
  clear(): void;
}

/** WebSocket close codes (RFC 6455 §7.4) as the wire uses them. */
const NORMAL = 1000;
const GOING_AWAY = 1001;
const ABNORMAL = 1006;
const POLICY_VIOLATION = 1008;
const SERVICE_RESTART = 1012;
const TRY_AGAIN_LATER = 1013;

const INPUT_RATE_HZ = 24000;
const CONNECT_TIMEOUT_MS = 15_000;
const RETRY_AFTER_MS = [500, 1000, 2000, 4000, 8000] as const;
/** After this time in a live connection, attempts are counted from the first again. A handshake alone proves little. */
const PROVEN_MS = 10_000;
const TICK_MS = 1000;
/** An engine sends sound all the time. After so long without a message the connection stalls. */
const STALLED_MS = 2000;
/** Pings that are never answered end: some servers log each of them. */
const UNANSWERED_PINGS = 5;
/** More than this waits to be sent only if the network is too slow: then sound is dropped instead. */
const MOST_WAITING_BYTES = 32_000;

export interface WireFigures {
  sentPackets: number;
  receivedPackets: number;
  /** Packets that were not sent, as the network was too slow. */
  unsentPackets: number;
  badPages: number;
  roundTripMs: number | null;
  codec: string;
}

export class Conversation {
  private state: TalkState = { name: "connecting" };
  private codec: Codec | undefined;
  private socket: Socket | undefined;
  private connection = 0;
  private reader = new OggOpusReader();
  private writer: OggOpusWriter | undefined;
  private text = new TextReader();
  private errorText = "";
  private wasLive = false;
  private attempt = 0;
  private liveAtMs = 0;
  private heardAtMs = 0;
  private pingedAtMs: number | null = null;
  private unanswered = 0;
  private cancels = new Set<() => void>();
  private counts = { sent: 0, received: 0, unsent: 0, bad: 0 };
  private roundTripMs: number | null = null;

  constructor(private readonly around: Surroundings) {}

  get figures(): WireFigures {
    return {
      sentPackets: this.counts.sent,
      receivedPackets: this.counts.received,
      unsentPackets: this.counts.unsent,
      badPages: this.counts.bad + this.reader.badCrc,
      roundTripMs: this.roundTripMs,
      codec: this.codec?.name ?? "",
    };
  }

  async start(): Promise<void> {
    this.setState({ name: "connecting" });
    try {
      this.codec = await this.around.makeCodec({
        packet: (packet) => this.sendPacket(packet),
        sound: (pcm) => this.around.play(pcm),
        failed: (problem) => this.end(true, `This browser's Opus codec does not work: ${problem}.`),
      });
    } catch (error) {
      this.end(true, `This browser cannot encode Opus: ${String(error)}`);
      return;
    }
    if (this.state.name === "ended") {
      this.codec.close();
      return;
    }
    this.connect();
    this.tick();
  }

  /** Takes 20 ms of the caller, at 48 kHz. */
  hear(pcm: Float32Array): void {
    if (this.writer !== undefined) this.codec?.encode(pcm);
  }

  hangUp(): void {
    this.end(false, "You ended the call.");
  }

  // The connection.

  private connect(): void {
    const connection = ++this.connection;
    const isCurrent = () => connection === this.connection && this.state.name !== "ended";
    this.counts.bad += this.reader.badCrc;
    this.reader = new OggOpusReader();
    this.writer = undefined;
    this.text = new TextReader();
    this.errorText = "";
    this.pingedAtMs = null;
    this.unanswered = 0;
    let isOpen = false;
    const cancelTimeout = this.after(CONNECT_TIMEOUT_MS, () => {
      if (isCurrent() && !isOpen) this.lost(ABNORMAL, "");
    });
    this.socket = this.around.connect({
      opened: () => {
        isOpen = true;
        cancelTimeout();
        if (isCurrent()) this.setState({ name: "preparing" });
      },
      message: (bytes) => {
        if (isCurrent()) this.take(bytes);
      },
      closed: (code, reason) => {
        cancelTimeout();
        if (isCurrent()) this.lost(code, reason);
      },
    });
  }

  private lost(code: number, reason: string): void {
    this.writer = undefined;
    this.socket?.close(NORMAL);
    this.connection++; // nothing more is heard of this one
    const told = this.errorText || reason;
    if (code === NORMAL) return this.end(false, endingOf(reason));
    if (code === POLICY_VIOLATION || code === TRY_AGAIN_LATER) return this.end(true, told || "The engine refused the call.");
    const mayComeBack = this.wasLive || code === SERVICE_RESTART || this.attempt > 0;
    const retryAfterMs = RETRY_AFTER_MS[this.attempt];
    if (!mayComeBack || retryAfterMs === undefined) {
      return this.end(true, told || (this.wasLive ? "The connection was lost." : NO_ANSWER[code] ?? "The engine closed the connection."));
    }
    this.attempt++;
    this.setState({ name: "reconnecting", attempt: this.attempt });
    this.after(retryAfterMs, () => {
      if (this.state.name === "reconnecting") this.connect();
    });
  }

  private end(isFault: boolean, reason: string): void {
    if (this.state.name === "ended") return;
    this.writer = undefined;
    this.setState({ name: "ended", isFault, reason });
    this.connection++;
    for (const cancel of this.cancels) cancel();
    this.socket?.close(NORMAL);
    this.codec?.close();
  }

  // What the engine sends.

  private take(bytes: Uint8Array): void {
    const message = parseMessage(bytes);
    if (message === null) return;
    this.heardAtMs = this.around.nowMs();
    switch (message.kind) {
      case Kind.handshake:
        this.goLive();
        break;
      case Kind.audio:
        for (const packet of this.reader.read(message.ogg)) {
          this.counts.received++;
          this.codec?.decode(packet);
        }
        break;
      case Kind.text: {
        const text = this.text.read(message.payload);
        if (text) this.around.tell({ type: "text", text });
        break;
      }
      case Kind.metadata: {
        const { place, agent, callId, recorded, clear } = message.metadata;
        if (clear) this.around.clear();
        if (place !== undefined && this.state.name !== "listening") {
          this.setState(place > 0 ? { name: "queued", place } : { name: "preparing" });
        }
        if (agent !== undefined && this.state.name === "listening") this.setState({ ...this.state, agentLost: agent === "lost" });
        if (callId !== undefined || recorded !== undefined) {
          this.around.tell({ type: "call", id: callId ?? null, recorded: recorded ?? false });
        }
        break;
      }
      case Kind.error:
        this.errorText = message.reason;
        break;
      case Kind.ping:
        if (this.pingedAtMs === null) this.socket?.send(pingMessage());
        else {
          this.roundTripMs = this.around.nowMs() - this.pingedAtMs;
          this.pingedAtMs = null;
          this.unanswered = 0;
        }
        break;
    }
    if (this.state.name === "listening" && this.state.stalled) this.setState({ ...this.state, stalled: false });
  }

  private goLive(): void {
    if (this.writer !== undefined) return;
    this.wasLive = true;
    this.liveAtMs = this.around.nowMs();
    const serial = Math.floor(Math.random() * 2 ** 32);
    this.writer = new OggOpusWriter(serial, INPUT_RATE_HZ, PRE_SKIP);
    this.socket?.send(audioMessage(this.writer.headers()));
    this.setState({ name: "listening", agentLost: false, stalled: false });
  }

  // What it sends.

  private sendPacket(packet: Uint8Array): void {
    if (this.writer === undefined || this.socket === undefined) return;
    if (this.socket.waitingBytes > MOST_WAITING_BYTES) {
      this.counts.unsent++;
      return;
    }
    const samples = packetSamples(packet) || (CODEC_RATE_HZ * BLOCK_MS) / 1000;
    this.socket.send(audioMessage(this.writer.packet(packet, samples)));
    this.counts.sent++;
  }

  private tick(): void {
    this.after(TICK_MS, () => this.tick());
    if (this.state.name !== "listening") return;
    if (this.around.nowMs() - this.liveAtMs >= PROVEN_MS) this.attempt = 0;
    const stalled = this.around.nowMs() - this.heardAtMs > STALLED_MS;
    if (stalled !== this.state.stalled) this.setState({ ...this.state, stalled });
    if (this.pingedAtMs !== null) {
      this.unanswered++;
      this.pingedAtMs = null;
    }
    if (this.unanswered < UNANSWERED_PINGS) {
      this.pingedAtMs = this.around.nowMs();
      this.socket?.send(pingMessage());
    }
  }

  private setState(state: TalkState): void {
    this.state = state;
    this.around.tell({ type: "state", state });
  }

  private after(ms: number, callback: () => void): () => void {
    const cancel = this.around.after(ms, () => {
      this.cancels.delete(cancel);
      callback();
    });
    this.cancels.add(cancel);
    return cancel;
  }
}

/** Why a call ended well, for whoever was in it. An operator's name is for the records, not for callers. */
function endingOf(reason: string): string {
  if (!reason) return "The agent ended the call.";
  if (reason.startsWith("ended by the operator")) return "An operator ended the call.";
  return `${reason[0]!.toUpperCase()}${reason.slice(1)}${/[.!?]$/.test(reason) ? "" : "."}`;
}

const NO_ANSWER: Record<number, string> = {
  [ABNORMAL]: "Nothing answers there, or it refused the connection. Is the engine running, and may this page reach it?",
  [GOING_AWAY]: "The engine is stopping.",
};
