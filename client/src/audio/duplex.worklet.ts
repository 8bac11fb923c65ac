/**
 * The loudspeaker and the microphone, in one audio worklet: what is played and what is heard at the same moment
 * belong together, which keeps a recording's two sides aligned.
 *
 * Its only partner is the worker, by a port of their own, so that a busy page delays no sound.
 */

import { PlayoutBuffer, type PlayoutStats } from "./playout-buffer.ts";
import { BLOCK_MS } from "./block.ts";

/** To the worker, every 20 ms. */
export interface DuplexBlock {
  /** What the microphone heard. */
  heard: Float32Array;
  /** What the loudspeaker played in the same time. */
  played: Float32Array;
  stats: PlayoutStats;
}

/** To the worklet: sound to play, at the context's rate, or to drop what was not played yet. */
export type DuplexInput = Float32Array | "clear";

// What TypeScript's own library does not know: the scope of an audio worklet.
declare const sampleRate: number;
declare class AudioWorkletProcessor {
  readonly port: MessagePort;
}
declare function registerProcessor(name: string, processor: new () => AudioWorkletProcessor): void;

class Duplex extends AudioWorkletProcessor {
  private readonly buffer = new PlayoutBuffer(sampleRate);
  private readonly blockSamples = Math.round((sampleRate * BLOCK_MS) / 1000);
  private heard = new Float32Array(this.blockSamples);
  private played = new Float32Array(this.blockSamples);
  private filled = 0;
  private worker: MessagePort | undefined;
  private runs = true;

  constructor() {
    super();
    this.port.onmessage = ({ data }: MessageEvent<MessagePort | "stop">) => {
      if (data === "stop") {
        this.runs = false;
        return;
      }
      this.worker = data;
      data.onmessage = ({ data: input }: MessageEvent<DuplexInput>) => {
        if (input === "clear") this.buffer.clear();
        else this.buffer.push(input);
      };
    };
  }

  process(inputs: Float32Array[][], outputs: Float32Array[][]): boolean {
    const [out, ...others] = outputs[0]!;
    if (out === undefined) return this.runs;
    this.buffer.pull(out);
    for (const other of others) other.set(out);
    const microphone = inputs[0]?.[0]; // none while there is no track: then the agent hears silence
    for (let at = 0; at < out.length; ) {
      const count = Math.min(out.length - at, this.blockSamples - this.filled);
      if (microphone) this.heard.set(microphone.subarray(at, at + count), this.filled);
      else this.heard.fill(0, this.filled, this.filled + count);
      this.played.set(out.subarray(at, at + count), this.filled);
      this.filled += count;
      at += count;
      if (this.filled === this.blockSamples) this.hand();
    }
    return this.runs;
  }

  private hand(): void {
    const block: DuplexBlock = { heard: this.heard, played: this.played, stats: this.buffer.stats };
    this.worker?.postMessage(block, [block.heard.buffer, block.played.buffer]);
    this.heard = new Float32Array(this.blockSamples);
    this.played = new Float32Array(this.blockSamples);
    this.filled = 0;
  }
}

registerProcessor("duplex", Duplex);
