import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Resampler } from "./resampler.ts";

const tone = (samples: number, hz: number, rateHz: number) =>
  Float32Array.from({ length: samples }, (_, at) => 0.5 * Math.sin((2 * Math.PI * hz * at) / rateHz));

function through(fromHz: number, toHz: number, pcm: Float32Array, piece: number): Float32Array {
  const resampler = new Resampler(fromHz, toHz);
  const out: number[] = [];
  for (let at = 0; at < pcm.length; at += piece) out.push(...resampler.process(pcm.subarray(at, at + piece)));
  return Float32Array.from(out);
}

const rates = fc.constantFrom(
  [44100, 48000] as const,
  [48000, 44100] as const,
  [48000, 24000] as const,
  [16000, 48000] as const,
  [48000, 48000] as const,
);

describe("the resampler", () => {
  it("keeps a tone, sample for sample, however the stream is cut", () => {
    fc.assert(
      fc.property(rates, fc.integer({ min: 1, max: 2000 }), ([fromHz, toHz], piece) => {
        const out = through(fromHz, toHz, tone(fromHz / 4, 1000, fromHz), piece);
        expect(out.length).toBeGreaterThan(toHz / 4 - 100);
        const expected = tone(out.length, 1000, toHz);
        for (let at = 200; at < out.length - 200; at++) expect(Math.abs(out[at]! - expected[at]!)).toBeLessThan(2e-3);
      }),
      { numRuns: 20 },
    );
  });

  it("lets nothing through that the lower rate cannot carry", () => {
    const out = through(48000, 24000, tone(12000, 16000, 48000), 960);
    expect(Math.max(...out.subarray(200).map(Math.abs))).toBeLessThan(5e-3);
  });
});
