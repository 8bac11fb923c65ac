/** Opus by libopus in WebAssembly, for browsers without WebCodecs. Loaded only by them: 180 kB. */

import { Application, createDecoder, createEncoder } from "libopus-wasm";
import { BITRATE_BPS, type Codec, CODEC_RATE_HZ, type CodecOutput, PACKET_MS } from "./codec.ts";

export async function makeWasmCodec(output: CodecOutput): Promise<Codec> {
  const [encoder, decoder] = await Promise.all([
    createEncoder({
      sampleRate: CODEC_RATE_HZ,
      channels: 1,
      frameSize: (CODEC_RATE_HZ * PACKET_MS) / 1000,
      application: Application.RestrictedLowDelay,
      bitrate: BITRATE_BPS,
      complexity: 2,
    }),
    createDecoder({ sampleRate: CODEC_RATE_HZ, channels: 1 }),
  ]);
  return {
    name: "libopus-wasm",
    encode: (pcm) => output.packet(encoder.encodeFloat(pcm)),
    decode(packet) {
      try {
        output.sound(decoder.decodeFloat(packet));
      } catch {
        // A broken packet is a gap, which the playout buffer conceals.
      }
    },
    close() {
      encoder.free();
      decoder.free();
    },
  };
}
