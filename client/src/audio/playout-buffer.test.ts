import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { pitchPeriod, PlayoutBuffer } from "./playout-buffer.ts";

const RATE = 48000;
const QUANTUM = 128;

/** Voiced sound, like a vowel: a pitch of 120 Hz with overtones. */
function vowel(samples: number, from = 0): Float32Array {
  return Float32Array.from({ length: samples }, (_, at) => {
    const phase = (2 * Math.PI * 120 * (from + at)) / RATE;
    return 0.2 * Math.sin(phase) + 0.1 * Math.sin(2 * phase) + 0.05 * Math.sin(5 * phase);
  });
}

/**
 * Plays a stream whose chunk number n comes `lateMs(n)` after its time.
 * Returns what was heard, and the buffer.
 */
function played(options: {
  seconds: number;
  lateMs?: (chunk: number) => number;
  chunkMs?: number;
  sound?: (samples: number, from: number) => Float32Array;
  each?: (buffer: PlayoutBuffer, nowMs: number) => void;
}): { heard: Float32Array; buffer: PlayoutBuffer } {
  const { seconds, lateMs = () => 0, chunkMs = 80, sound = vowel, each } = options;
  const buffer = new PlayoutBuffer(RATE);
  const chunk = (chunkMs * RATE) / 1000;
  const arrivals: number[] = [];
  for (let number = 0; number * chunkMs < seconds * 1000; number++) {
    // A stream keeps its order: what comes late holds up what follows.
    arrivals.push(Math.max(arrivals.at(-1) ?? 0, (number + 1) * chunkMs + lateMs(number)));
  }
  const heard = new Float32Array(Math.floor((seconds * RATE) / QUANTUM) * QUANTUM);
  let next = 0;
  for (let at = 0; at < heard.length; at += QUANTUM) {
    const nowMs = (at / RATE) * 1000;
    while (next < arrivals.length && arrivals[next]! <= nowMs) {
      buffer.push(sound(chunk, next * chunk));
      next++;
    }
    buffer.pull(heard.subarray(at, at + QUANTUM));
    each?.(buffer, nowMs);
  }
  return { heard, buffer };
}

function steepest(pcm: Float32Array): number {
  let most = 0;
  for (let at = 1; at < pcm.length; at++) most = Math.max(most, Math.abs(pcm[at]! - pcm[at - 1]!));
  return most;
}

describe("the playout buffer", () => {
  it("plays a punctual stream whole, and holds back 30 ms in the end", () => {
    const { heard, buffer } = played({ seconds: 60 });
    expect(buffer.stats).toMatchObject({ underruns: 0, concealedMs: 0, insertedMs: 0 });
    expect(buffer.stats.targetMs).toBe(30);
    expect(buffer.stats.droppedMs).toBeLessThan(60);
    expect(steepest(heard)).toBeLessThan(1.3 * steepest(vowel(RATE)));
  });

  it("begins to play after the start target", () => {
    const { heard } = played({ seconds: 1 });
    const first = heard.findIndex((sample) => sample !== 0);
    expect((first / RATE) * 1000).toBeGreaterThan(80 + 55);
    expect((first / RATE) * 1000).toBeLessThan(80 + 65);
  });

  it("holds back what jitter needs, and no more when it is over", () => {
    let most = 0;
    const jitter = (chunk: number) => (chunk < 250 && chunk % 5 === 0 ? 120 : 0); // for 20 s
    const { buffer } = played({
      seconds: 90,
      lateMs: jitter,
      each: (buffer) => (most = Math.max(most, buffer.stats.targetMs)),
    });
    expect(most).toBeGreaterThan(120);
    expect(buffer.stats.targetMs).toBeLessThan(35);
    expect(buffer.stats.underruns).toBeLessThan(8);
  });

  it("makes at most one gap a minute of what a network's ordinary jitter does", () => {
    for (const chunkMs of [20, 80]) {
      let seed = 1;
      // Exponential, 5 ms on average: 1 packet of 55 comes more than 20 ms late.
      const lateMs = () => -5 * Math.log(1 - (seed = (seed * 48271) % 2147483647) / 2147483647);
      const { buffer } = played({ seconds: 60, chunkMs, lateMs });
      expect(buffer.stats.underruns).toBeLessThanOrEqual(1);
      expect(buffer.stats.targetMs).toBeLessThan(60);
    }
  });

  it("is as soon as before within 3 s of a stall of 1.5 s", () => {
    const depths: [number, number][] = [];
    played({
      seconds: 16,
      lateMs: (chunk) => (chunk * 80 >= 8000 && chunk * 80 < 9500 ? 9500 - chunk * 80 : 0),
      each: (buffer, nowMs) => depths.push([nowMs, buffer.stats.depthMs]),
    });
    const most = (from: number, to: number) => Math.max(...depths.filter(([at]) => at >= from && at < to).map(([, depth]) => depth));
    expect(most(9500, 9700)).toBeGreaterThan(1000);
    expect(most(12500, 16000)).toBeLessThanOrEqual(most(6000, 8000) + 30);
  });

  it("cuts nothing away if the delay has grown and stays", () => {
    const { buffer } = played({ seconds: 30, lateMs: (chunk) => (chunk > 100 ? 700 : 0) });
    expect(buffer.stats.underruns).toBeLessThan(4);
    expect(buffer.stats.droppedMs).toBeLessThan(300);
  });

  it("conceals a gap and fades: no click, no silence at once", () => {
    const { heard, buffer } = played({ seconds: 4, lateMs: (chunk) => (chunk === 25 ? 130 : 0) });
    expect(buffer.stats.underruns).toBe(1);
    expect(steepest(heard)).toBeLessThan(2 * steepest(vowel(RATE)));
  });

  it("begins anew after a long pause", () => {
    const { buffer } = played({ seconds: 20, lateMs: (chunk) => (chunk >= 100 ? 5000 : 0) });
    expect(buffer.stats.underruns).toBeLessThan(3);
    expect(buffer.stats.targetMs).toBeLessThan(100);
  });

  it("takes the silence that a waiting caller is sent each second for no stream", () => {
    const { buffer } = played({ seconds: 20, chunkMs: 20, lateMs: (chunk) => chunk * 980, sound: (samples) => new Float32Array(samples) });
    expect(buffer.stats).toMatchObject({ underruns: 0 });
    expect(buffer.stats.targetMs).toBeLessThanOrEqual(60);
  });

  it("stops without a click when it is cleared", () => {
    let cleared = false;
    const { heard, buffer } = played({
      seconds: 1.2,
      lateMs: (chunk) => (chunk > 8 ? 1000 : 0),
      each: (buffer, nowMs) => {
        if (nowMs > 750 && !cleared) {
          buffer.clear();
          cleared = true;
        }
      },
    });
    expect(buffer.stats.depthMs).toBe(0);
    expect(steepest(heard)).toBeLessThan(2 * steepest(vowel(RATE)));
  });

  it("makes finite sound of bounded depth, whatever comes when", () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.nat(4000), fc.nat(60)), { maxLength: 120 }),
        fc.integer({ min: 0, max: 1 }),
        (steps, loud) => {
          const buffer = new PlayoutBuffer(RATE);
          const out = new Float32Array(QUANTUM);
          let pushed = 0;
          for (const [samples, pulls] of steps) {
            buffer.push(vowel(samples, pushed).map((sample) => sample * loud));
            pushed += samples;
            for (let pull = 0; pull < pulls; pull++) {
              buffer.pull(out);
              expect(out.every((sample) => Number.isFinite(sample) && Math.abs(sample) < 1)).toBe(true);
            }
            expect(buffer.stats.depthMs).toBeLessThanOrEqual(8000);
            expect(buffer.stats.targetMs).toBeGreaterThanOrEqual(30);
            expect(buffer.stats.targetMs).toBeLessThanOrEqual(250);
          }
        },
      ),
    );
  });

  it("finds the pitch of voiced sound, and none in noise", () => {
    expect(pitchPeriod(vowel(4000), RATE)! % 400).toBeLessThanOrEqual(1);
    let state = 1;
    const noise = Float32Array.from({ length: 4000 }, () => ((state = (state * 48271) % 2147483647) / 2147483647) - 0.5);
    expect(pitchPeriod(noise, RATE)).toBeNull();
  });
});
