/**
 * The worker of a talk: the wire on one side, the audio worklet on the other. The page only hears what happened.
 */

import { CODEC_RATE_HZ, makeCodec, PACKET_MS } from "./codec.ts";
import { Conversation, type ConversationEvent, type Socket, type SocketHandlers, type WireFigures } from "./conversation.ts";
import type { DuplexBlock, DuplexInput } from "./duplex.worklet.ts";
import type { PlayoutStats } from "./playout-buffer.ts";
import { Resampler } from "./resampler.ts";
import { StereoRecording } from "./stereo-recording.ts";

export type ToWorker =
  | { type: "start"; url: string; duplex: MessagePort; contextRateHz: number; mayUseWebCodecs: boolean }
  | { type: "mute"; muted: boolean }
  | { type: "hang up" }
  | { type: "recording" };

export interface Meters {
  /** Power levels, 0 to 1. */
  heardLevel: number;
  playedLevel: number;
  playout: PlayoutStats;
  wire: WireFigures;
  recordedS: number;
}

export type FromWorker =
  | ConversationEvent
  | { type: "meters"; meters: Meters }
  | { type: "recording"; wav: Blob };

const METERS_EVERY_BLOCKS = 3;

const page = self as unknown as {
  onmessage: (event: MessageEvent<ToWorker>) => void;
  postMessage(message: FromWorker): void;
};

class Talk {
  muted = false;
  private readonly toCodec: Resampler;
  private readonly toContext: Resampler;
  private readonly conversation: Conversation;
  readonly recording: StereoRecording;
  private readonly packets = new Packets();
  private blocks = 0;

  constructor({ contextRateHz, duplex, url, mayUseWebCodecs }: ToWorker & { type: "start" }) {
    this.toCodec = new Resampler(contextRateHz, CODEC_RATE_HZ);
    this.toContext = new Resampler(CODEC_RATE_HZ, contextRateHz);
    this.recording = new StereoRecording(contextRateHz);
    this.conversation = new Conversation({
      connect: (handlers) => connect(url, handlers),
      makeCodec: (output) => makeCodec(output, mayUseWebCodecs),
      nowMs: () => performance.now(),
      after: (ms, callback) => {
        const timer = setTimeout(callback, ms);
        return () => clearTimeout(timer);
      },
      tell: (event) => page.postMessage(event),
      play: (pcm) => {
        const sound = this.toContext.process(pcm);
        duplex.postMessage(sound satisfies DuplexInput, [sound.buffer]);
      },
      clear: () => duplex.postMessage("clear" satisfies DuplexInput),
    });
    duplex.onmessage = ({ data }: MessageEvent<DuplexBlock>) => this.block(data);
    void this.conversation.start();
  }

  hangUp(): void {
    this.conversation.hangUp();
  }

  private block({ heard, played, stats }: DuplexBlock): void {
    const heardLevel = level(heard);
    if (this.muted) heard.fill(0); // the agent's clock is the caller's sound, so silence is sent
    for (const packet of this.packets.of(this.toCodec.process(heard))) this.conversation.hear(packet);
    this.recording.add(heard, played);
    if (this.blocks++ % METERS_EVERY_BLOCKS === 0) {
      page.postMessage({
        type: "meters",
        meters: { heardLevel, playedLevel: level(played), playout: stats, wire: this.conversation.figures, recordedS: this.recording.seconds },
      });
    }
  }
}

/** Cuts sound into packets: a resampled block may be a sample shorter or longer than one. */
class Packets {
  private kept = new Float32Array(0);

  of(pcm: Float32Array): Float32Array[] {
    const samples = (CODEC_RATE_HZ * PACKET_MS) / 1000;
    if (this.kept.length === 0 && pcm.length === samples) return [pcm];
    let whole = new Float32Array(this.kept.length + pcm.length);
    whole.set(this.kept);
    whole.set(pcm, this.kept.length);
    const packets = [];
    for (; whole.length >= samples; whole = whole.slice(samples)) packets.push(whole.slice(0, samples));
    this.kept = whole;
    return packets;
  }
}

function level(pcm: Float32Array): number {
  let power = 0;
  for (const sample of pcm) power += sample * sample;
  return Math.sqrt(power / pcm.length);
}

function connect(url: string, handlers: SocketHandlers): Socket {
  let socket: WebSocket;
  try {
    socket = new WebSocket(url);
  } catch (error) {
    // Not a WebSocket's address, or not one that a page with HTTPS may ask.
    setTimeout(() => handlers.closed(1006, error instanceof Error ? error.message : ""));
    return { send: () => undefined, close: () => undefined, waitingBytes: 0 };
  }
  socket.binaryType = "arraybuffer";
  socket.onopen = () => handlers.opened();
  socket.onmessage = ({ data }: MessageEvent<ArrayBuffer | string>) => {
    if (typeof data !== "string") handlers.message(new Uint8Array(data));
  };
  socket.onclose = ({ code, reason }) => handlers.closed(code, reason);
  return {
    send: (message: Uint8Array<ArrayBuffer>) => {
      if (socket.readyState === WebSocket.OPEN) socket.send(message);
    },
    close: (code: number) => socket.close(code),
    get waitingBytes() {
      return socket.bufferedAmount;
    },
  };
}

let talk: Talk | undefined;

page.onmessage = ({ data }) => {
  switch (data.type) {
    case "start":
      talk = new Talk(data);
      break;
    case "mute":
      if (talk) talk.muted = data.muted;
      break;
    case "hang up":
      talk?.hangUp();
      break;
    case "recording":
      if (talk) page.postMessage({ type: "recording", wav: talk.recording.wav() });
      break;
  }
};
