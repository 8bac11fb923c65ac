/**
 * Opus, by WebCodecs where the browser has it, else by libopus in WebAssembly, which is loaded only then.
 *
 * Both encode and decode mono at 48 kHz: browsers' decoders emit that rate, whatever they are asked for.
 */

import { packetSamples } from "./ogg.ts";
import { Resampler } from "./resampler.ts";

export const CODEC_RATE_HZ = 48000;
export const PACKET_MS = 20;
/** The caller's bits cost nothing; at this rate and low delay Opus is close to its input. */
const BITRATE_BPS = 64000;
/** Look-ahead of the low-delay mode at 48 kHz, 2.5 ms. */
export const PRE_SKIP = 120;

export interface Codec {
  readonly name: "WebCodecs" | "libopus-wasm";
  /** Takes a packet's worth of sound. Its packet comes by the callback. */
  encode(pcm: Float32Array): void;
  /** Takes a packet. Its sound comes by the callback. */
  decode(packet: Uint8Array): void;
  close(): void;
}

export interface CodecOutput {
  packet(packet: Uint8Array): void;
  sound(pcm: Float32Array): void;
  /** The codec does not work any more. */
  failed(problem: string): void;
}

/** The best codec that there is. */
export async function makeCodec(output: CodecOutput, mayUseWebCodecs = true): Promise<Codec> {
  if (mayUseWebCodecs && (await hasWebCodecs())) return new WebCodecsOpus(output);
  const { makeWasmCodec } = await import("./wasm-codec.ts");
  return makeWasmCodec(output);
}

interface OpusEncoderConfig extends AudioEncoderConfig {
  opus: { frameDuration: number; application?: "voip" | "audio" | "lowdelay"; usedtx: boolean };
}

const ENCODER: OpusEncoderConfig = {
  codec: "opus",
  sampleRate: CODEC_RATE_HZ,
  numberOfChannels: 1,
  bitrate: BITRATE_BPS,
  opus: { frameDuration: PACKET_MS * 1000, application: "lowdelay", usedtx: false },
};
const DECODER: AudioDecoderConfig = { codec: "opus", sampleRate: CODEC_RATE_HZ, numberOfChannels: 1 };

async function hasWebCodecs(): Promise<boolean> {
  if (typeof AudioEncoder === "undefined" || typeof AudioDecoder === "undefined") return false;
  try {
    const [encoder, decoder] = await Promise.all([
      AudioEncoder.isConfigSupported(ENCODER),
      AudioDecoder.isConfigSupported(DECODER),
    ]);
    return encoder.supported === true && decoder.supported === true;
  } catch {
    return false;
  }
}

class WebCodecsOpus implements Codec {
  readonly name = "WebCodecs";
  private readonly encoder: AudioEncoder;
  private decoder: AudioDecoder;
  private encodedUs = 0;
  private decodedUs = 0;
  private resampler: Resampler | undefined;
  private resamplesHz = 0;

  constructor(private readonly output: CodecOutput) {
    this.encoder = new AudioEncoder({
      output: (chunk) => {
        const packet = new Uint8Array(chunk.byteLength);
        chunk.copyTo(packet);
        output.packet(packet);
      },
      error: (error) => output.failed(`the encoder failed: ${error.message}`),
    });
    this.encoder.configure(ENCODER);
    this.decoder = this.makeDecoder();
  }

  encode(pcm: Float32Array): void {
    if (this.encoder.state !== "configured") return;
    const data = new AudioData({
      format: "f32-planar",
      sampleRate: CODEC_RATE_HZ,
      numberOfFrames: pcm.length,
      numberOfChannels: 1,
      timestamp: this.encodedUs,
      data: pcm as Float32Array<ArrayBuffer>,
    });
    this.encodedUs += (pcm.length * 1e6) / CODEC_RATE_HZ;
    this.encoder.encode(data);
    data.close();
  }

  decode(packet: Uint8Array): void {
    const samples = packetSamples(packet);
    if (samples === 0) return;
    const duration = (samples * 1e6) / CODEC_RATE_HZ;
    if (this.decoder.state === "closed") this.decoder = this.makeDecoder(); // a broken packet closes a decoder
    this.decoder.decode(new EncodedAudioChunk({ type: "key", timestamp: this.decodedUs, duration, data: packet as Uint8Array<ArrayBuffer> }));
    this.decodedUs += duration;
  }

  close(): void {
    if (this.encoder.state !== "closed") this.encoder.close();
    if (this.decoder.state !== "closed") this.decoder.close();
  }

  private makeDecoder(): AudioDecoder {
    const decoder = new AudioDecoder({ output: (data) => this.decoded(data), error: () => undefined });
    decoder.configure(DECODER);
    return decoder;
  }

  private decoded(data: AudioData): void {
    const pcm = new Float32Array(data.numberOfFrames);
    data.copyTo(pcm, { planeIndex: 0, format: "f32-planar" });
    const { sampleRate } = data;
    data.close();
    if (this.resampler === undefined || this.resamplesHz !== sampleRate) {
      this.resampler = new Resampler(sampleRate, CODEC_RATE_HZ);
      this.resamplesHz = sampleRate;
    }
    this.output.sound(this.resampler.process(pcm));
  }
}

export { BITRATE_BPS };
