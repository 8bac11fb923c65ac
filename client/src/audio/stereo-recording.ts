/** Both sides of a talk as a WAV file: the caller on the left, the agent on the right, as they were heard. */

import { Resampler } from "./resampler.ts";

const RATE_HZ = 24000;
const BYTES_PER_FRAME = 4; // two channels of 16 bits
/** Parts become blobs, which browsers may keep on the disk. */
const PART_FRAMES = 10 * RATE_HZ;

export class StereoRecording {
  private readonly left: Resampler;
  private readonly right: Resampler;
  private readonly parts: Blob[] = [];
  private part = new Int16Array(2 * PART_FRAMES);
  private filled = 0;
  private frames = 0;

  constructor(rateHz: number) {
    this.left = new Resampler(rateHz, RATE_HZ);
    this.right = new Resampler(rateHz, RATE_HZ);
  }

  add(heard: Float32Array, played: Float32Array): void {
    const left = this.left.process(heard);
    const right = this.right.process(played);
    for (let at = 0; at < left.length; at++) {
      this.part[2 * this.filled] = pcm16(left[at]!);
      this.part[2 * this.filled + 1] = pcm16(right[at]!);
      this.frames++;
      if (++this.filled === PART_FRAMES) {
        this.parts.push(new Blob([this.part]));
        this.part = new Int16Array(2 * PART_FRAMES);
        this.filled = 0;
      }
    }
  }

  get seconds(): number {
    return this.frames / RATE_HZ;
  }

  wav(): Blob {
    const rest = this.part.slice(0, 2 * this.filled);
    return new Blob([wavHeader(this.frames), ...this.parts, rest], { type: "audio/wav" });
  }
}

function pcm16(sample: number): number {
  return Math.max(-32768, Math.min(32767, Math.round(sample * 32767)));
}

/** RIFF WAVE, linear PCM, 16 bits, stereo. */
export function wavHeader(frames: number): ArrayBuffer {
  const view = new DataView(new ArrayBuffer(44));
  const text = (at: number, value: string) => [...value].forEach((char, index) => view.setUint8(at + index, char.charCodeAt(0)));
  const bytes = frames * BYTES_PER_FRAME;
  text(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 2, true);
  view.setUint32(24, RATE_HZ, true);
  view.setUint32(28, RATE_HZ * BYTES_PER_FRAME, true);
  view.setUint16(32, BYTES_PER_FRAME, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, bytes, true);
  return view.buffer;
}
