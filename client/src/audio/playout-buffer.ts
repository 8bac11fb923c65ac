/**
 * Holds sound back by as little as the network's lateness allows, and plays it without clicks.
 *
 * The buffer's clock is what it plays: each `pull` is so many samples of time. What it holds back follows the
 * target of a `LatenessMeter`, in both directions: too much is taken out of pauses first, then out of speech by
 * whole pitch periods (as NetEq's accelerate does), and cut if it is far too much; too little is put in the same
 * way. When nothing is there to play, the last pitch period is repeated and fades.
 *
 * Pure: no clock, no Web Audio. `duplex.worklet.ts` drives it.
 */

import { LatenessMeter } from "./lateness.ts";

/** Every so often it is decided whether to take out or put in. */
const DECIDE_MS = 10;
/** Tolerated around the target: less is not worth touching the sound. */
const TOLERANCE_MS = 15;
/** Beyond this much too much, old sound is cut: the answer of an agent is worth more soon than whole. */
const CUT_MS = 400;
/** Beyond this, speech is shortened faster. */
const HURRY_MS = 120;
const STRETCH = 0.05;
const HURRIED_STRETCH = 0.2;
/** Sound below this, in dBFS, is a pause. */
const QUIET_DBFS = -46;
const QUIET_POWER = 10 ** (QUIET_DBFS / 10);
const FADE_MS = 3;
const LONG_FADE_MS = 10;
const SHORTEST_PERIOD_MS = 2.5;
const LONGEST_PERIOD_MS = 15;
/** How like each other two periods must be for one of them to be taken out unheard. */
const LIKENESS = 0.6;
const CONCEAL_MS = 60;
/** After so long without sound, what comes next is a new beginning. A bridge whose caller waits sends 20 ms a second. */
const RESTART_AFTER_MS = 700;
/** For so long a level must not have been needed, before it is taken out. */
const SURPLUS_WINDOW_MS = 250;
/** What is always left of a surplus. */
const RESERVE_MS = 10;
const CAPACITY_MS = 8000;
const HISTORY_MS = 2 * LONGEST_PERIOD_MS;

export interface PlayoutStats {
  /** Sound that waits to be played. */
  depthMs: number;
  /** What should be held back, for lateness. */
  targetMs: number;
  /** Times that sound came too late to follow what was played. */
  underruns: number;
  /** Sound made up meanwhile. */
  concealedMs: number;
  /** Taken out to catch up. */
  droppedMs: number;
  /** Put in to hold back more. */
  insertedMs: number;
}

interface Concealing {
  name: "concealing";
  forMs: number;
  /** What is repeated. */
  period: Float32Array;
  /** From the last sample played to where the repetition begins: faded out, so that nothing jumps. */
  step: number;
  /** Nothing is missing: what was to be played was dropped. */
  isMeant: boolean;
}

type State = { name: "waiting" } | { name: "playing" } | Concealing;

export class PlayoutBuffer {
  private readonly meter = new LatenessMeter();
  private state: State = { name: "waiting" };
  private readonly data: Float32Array;
  private readonly history: Float32Array;
  private readIndex: number;
  private writeIndex: number;
  /** Played and received since the beginning, in samples. */
  private clock = 0;
  private received = 0;
  private undecided = 0;
  /** How many samples of speech may be taken out or put in by now. */
  private budget = 0;
  private fadeIn = 0;
  private levels: { atMs: number; levelMs: number }[] = [];
  private counts = { underruns: 0, concealed: 0, dropped: 0, inserted: 0 };

  constructor(private readonly rateHz: number) {
    this.data = new Float32Array(this.samples(CAPACITY_MS));
    this.history = new Float32Array(this.samples(HISTORY_MS));
    this.readIndex = this.writeIndex = this.samples(LONGEST_PERIOD_MS * 2);
  }

  get stats(): PlayoutStats {
    return {
      depthMs: this.ms(this.available),
      targetMs: this.meter.targetMs,
      underruns: this.counts.underruns,
      concealedMs: this.ms(this.counts.concealed),
      droppedMs: this.ms(this.counts.dropped),
      insertedMs: this.ms(this.counts.inserted),
    };
  }

  /** Takes sound that has arrived now. */
  push(pcm: Float32Array): void {
    const nowMs = this.ms(this.clock);
    const levelMs = this.ms(this.available);
    if (this.state.name === "concealing" && this.state.forMs > RESTART_AFTER_MS) {
      this.meter.restart();
      this.levels = [];
      this.state = { name: "waiting" };
    }
    if (this.meter.arrived(nowMs, this.ms(this.received))) {
      this.levels.push({ atMs: nowMs, levelMs });
      while (nowMs - this.levels[0]!.atMs > SURPLUS_WINDOW_MS) this.levels.shift();
    }
    this.received += pcm.length;
    this.append(pcm);
  }

  /** Drops what was not played yet: the agent was interrupted. */
  clear(): void {
    this.counts.dropped += this.available;
    this.readIndex = this.writeIndex;
    if (this.state.name === "playing") this.state = this.concealment(this.history, true);
  }

  /** Fills `out` with the next sound, whatever there is. */
  pull(out: Float32Array): void {
    if (this.state.name === "waiting" && this.heldMs >= this.meter.targetMs) {
      this.state = { name: "playing" };
      this.fadeIn = this.samples(FADE_MS);
    }
    if (this.state.name === "concealing" && this.available >= out.length) {
      this.fadeFromConcealment(this.state);
      if (!this.state.isMeant) this.counts.underruns++; // not before: a pause in the stream is none
      this.state = { name: "playing" };
    }
    if (this.state.name === "playing") {
      this.undecided += out.length;
      this.budget = Math.min(this.budget + out.length * STRETCH * 4, this.samples(LONGEST_PERIOD_MS * 2));
      if (this.undecided >= this.samples(DECIDE_MS)) {
        this.undecided = 0;
        this.decide();
      }
    }
    this.play(out);
    this.clock += out.length;
    this.history.copyWithin(0, out.length);
    this.history.set(out, this.history.length - out.length);
  }

  private play(out: Float32Array): void {
    let made = 0;
    if (this.state.name === "playing") {
      made = Math.min(out.length, this.available);
      out.set(this.data.subarray(this.readIndex, this.readIndex + made));
      this.readIndex += made;
      for (let at = 0; at < made && this.fadeIn > 0; at++) {
        out[at]! *= 1 - this.fadeIn-- / this.samples(FADE_MS);
      }
      if (made === out.length) return;
      this.state = this.concealment(this.recent(out.subarray(0, made)), false);
    }
    const rest = out.subarray(made);
    if (this.state.name === "concealing") this.conceal(this.state, rest);
    else rest.fill(0);
  }

  /** What was played last, with the piece that is being played. */
  private recent(played: Float32Array): Float32Array {
    const whole = new Float32Array(this.history.length);
    whole.set(this.history.subarray(played.length));
    whole.set(played, whole.length - played.length);
    return whole;
  }

  /** Repeats the last pitch period of what was played; what has none is repeated by the longest. */
  private concealment(played: Float32Array, isMeant: boolean): Concealing {
    const length = pitchPeriod(played.slice().reverse(), this.rateHz) ?? this.samples(LONGEST_PERIOD_MS);
    const start = played.length - length;
    const period = played.slice(start);
    // Its end goes over into what precedes its beginning, so that it can be repeated.
    const fade = Math.min(this.samples(FADE_MS), length, start);
    for (let at = 0; at < fade; at++) {
      const weight = (at + 1) / fade;
      const index = length - fade + at;
      period[index] = (1 - weight) * period[index]! + weight * played[start - fade + at]!;
    }
    return { name: "concealing", forMs: 0, period, step: played.at(-1)! - period.at(-1)!, isMeant };
  }

  private conceal(state: Concealing, out: Float32Array): void {
    const from = this.samples(state.forMs);
    const fade = this.samples(CONCEAL_MS);
    for (let at = 0; at < out.length; at++) {
      const gain = Math.max(0, 1 - (from + at) / fade);
      const step = state.step * Math.max(0, 1 - (from + at) / this.samples(FADE_MS));
      out[at] = gain * state.period[(from + at) % state.period.length]! + step;
    }
    state.forMs += this.ms(out.length);
    this.counts.concealed += Math.min(out.length, Math.max(0, fade - from));
  }

  /** Lets the concealment go over into the sound that has come. */
  private fadeFromConcealment(state: Concealing): void {
    const length = Math.min(this.samples(FADE_MS), this.available);
    const expected = new Float32Array(length);
    const concealed = this.counts.concealed;
    this.conceal(state, expected);
    this.counts.concealed = concealed;
    for (let at = 0; at < length; at++) {
      const weight = (at + 1) / (length + 1);
      const index = this.readIndex + at;
      this.data[index] = weight * this.data[index]! + (1 - weight) * expected[at]!;
    }
  }

  /** How much is held back: the delay of what is played, above the base. */
  private get heldMs(): number {
    if (this.meter.baseMs === undefined) return 0;
    return this.ms(this.clock - this.received + this.available) - this.meter.baseMs;
  }

  private decide(): void {
    const excessMs = this.heldMs - this.meter.targetMs;
    // A delay that has grown and stays is no surplus, whatever the base says: then nothing was left over when
    // the latest sound arrived.
    const surplusMs = Math.min(excessMs, Math.min(...this.levels.map((each) => each.levelMs)) - RESERVE_MS);
    if (surplusMs > CUT_MS && this.levels.length > 1) {
      this.take(this.samples(surplusMs), this.samples(LONG_FADE_MS));
    } else if (surplusMs > TOLERANCE_MS) {
      if (this.isQuiet()) this.take(this.samples(Math.min(surplusMs, DECIDE_MS)), this.samples(FADE_MS));
      else this.stretch(-1, surplusMs > HURRY_MS ? HURRIED_STRETCH : STRETCH);
    } else if (excessMs < -TOLERANCE_MS) {
      if (this.isQuiet()) this.put(this.samples(SHORTEST_PERIOD_MS * 2), this.samples(FADE_MS));
      else this.stretch(1, STRETCH);
    }
  }

  private isQuiet(): boolean {
    const length = Math.min(this.samples(DECIDE_MS * 2), this.available);
    let power = 0;
    for (let at = 0; at < length; at++) power += this.data[this.readIndex + at]! ** 2;
    return power <= QUIET_POWER * length;
  }

  /** Takes out a pitch period (direction -1), or puts one in (+1), if there is one and it is time again. */
  private stretch(direction: 1 | -1, share: number): void {
    const head = this.data.subarray(this.readIndex, this.writeIndex);
    const period = pitchPeriod(head, this.rateHz);
    if (period === null || period > this.budget * (share / (STRETCH * 4))) return;
    this.budget = 0;
    const fade = Math.min(period, this.samples(FADE_MS));
    if (direction < 0) this.take(period, fade);
    else this.put(period, fade);
  }

  /** Takes the next `count` samples out; what precedes them goes over into what follows them. */
  private take(count: number, fade: number): void {
    const length = Math.min(count, this.available - fade);
    if (length <= 0) return;
    for (let at = 0; at < fade; at++) {
      const weight = (at + 1) / (fade + 1);
      const index = this.readIndex + at;
      this.data[index + length] = weight * this.data[index + length]! + (1 - weight) * this.data[index]!;
    }
    this.readIndex += length;
    this.counts.dropped += length;
  }

  /** Plays the next `count` samples twice. */
  private put(count: number, fade: number): void {
    if (this.available < count + fade || this.readIndex < count || fade > count) return;
    const head = this.readIndex;
    this.data.copyWithin(head - count, head, head + count);
    for (let at = 0; at < fade; at++) {
      const weight = (at + 1) / (fade + 1);
      this.data[head + at] = weight * this.data[head + at]! + (1 - weight) * this.data[head + count + at]!;
    }
    this.readIndex -= count;
    this.counts.inserted += count;
  }

  private append(pcm: Float32Array): void {
    const keep = this.samples(LONGEST_PERIOD_MS * 2);
    if (this.writeIndex + pcm.length > this.data.length) {
      this.data.copyWithin(0, this.readIndex - keep, this.writeIndex);
      this.writeIndex -= this.readIndex - keep;
      this.readIndex = keep;
    }
    const room = this.data.length - this.writeIndex;
    if (pcm.length > room) {
      const lost = Math.min(pcm.length - room, this.available);
      this.counts.dropped += lost;
      this.data.copyWithin(this.readIndex, this.readIndex + lost, this.writeIndex);
      this.writeIndex -= lost;
    }
    const fits = pcm.subarray(0, this.data.length - this.writeIndex);
    this.data.set(fits, this.writeIndex);
    this.writeIndex += fits.length;
  }

  private get available(): number {
    return this.writeIndex - this.readIndex;
  }

  private samples(ms: number): number {
    return Math.round((ms * this.rateHz) / 1000);
  }

  private ms(samples: number): number {
    return (samples * 1000) / this.rateHz;
  }
}

/** Coarse search looks at every fourth sample. */
const COARSE = 4;

/** The period of voiced speech that `head` begins with, in samples; null if there is none, or too little sound. */
export function pitchPeriod(head: Float32Array, rateHz: number): number | null {
  const shortest = Math.round((SHORTEST_PERIOD_MS * rateHz) / 1000);
  const longest = Math.round((LONGEST_PERIOD_MS * rateHz) / 1000);
  const window = longest;
  if (head.length < longest + window) return null;
  const [coarse] = mostAlike(head, shortest, longest, window, COARSE);
  const [period, likeness] = mostAlike(
    head,
    Math.max(shortest, coarse - COARSE),
    Math.min(longest, coarse + COARSE),
    window,
    1,
  );
  return likeness >= LIKENESS ? period : null;
}

/** The lag at which `pcm` is most like itself, and how like (normalised correlation, up to 1). */
function mostAlike(pcm: Float32Array, from: number, to: number, window: number, step: number): [number, number] {
  let best = from;
  let bestLikeness = -1;
  for (let lag = from; lag <= to; lag += step) {
    let product = 0;
    let first = 1e-9;
    let second = 1e-9;
    for (let at = 0; at < window; at += step) {
      const a = pcm[at]!;
      const b = pcm[at + lag]!;
      product += a * b;
      first += a * a;
      second += b * b;
    }
    const likeness = product / Math.sqrt(first * second);
    if (likeness > bestLikeness) [best, bestLikeness] = [lag, likeness];
  }
  return [best, bestLikeness];
}
