/**
 * How late the network brings sound, and how much a playout buffer must therefore hold back.
 *
 * The *delay* of an arrival is its time minus its place in the stream, both in milliseconds. Only differences of
 * delays mean something. The smallest delay of the last seconds is the base, and an arrival's lateness is its
 * delay above the base. NetEq measures the same way.
 */

const BASE_WINDOW_MS = 3000;
const LATENESS_WINDOW_MS = 10_000;
/** Rarer lateness is concealed, not waited for. */
const PERCENTILE = 0.95;
const MARGIN_MS = 10;
/** Arrivals so soon after one another are one: an engine's step comes in one message or in four. */
const SAME_BURST_MS = 5;

export const START_TARGET_MS = 60;
export const MIN_TARGET_MS = 30;
export const MAX_TARGET_MS = 250;
/** How fast the target falls: slowly, as the next spike may come; faster the further it is too high. */
const SHRINK_MS_PER_S = 1;
const SHRINK_TIME_CONSTANT_S = 10;

interface Arrival {
  atMs: number;
  delayMs: number;
  latenessMs: number;
}

export class LatenessMeter {
  targetMs = START_TARGET_MS;
  private arrivals: Arrival[] = [];

  /** The least delay of the last seconds; undefined before the first arrival. */
  baseMs: number | undefined;

  /**
   * Notes an arrival; returns whether it begins a burst.
   * @param atMs When it arrived.
   * @param placeMs Where it begins in the stream.
   */
  arrived(atMs: number, placeMs: number): boolean {
    const delayMs = atMs - placeMs;
    const last = this.arrivals.at(-1);
    if (last !== undefined && atMs - last.atMs < SAME_BURST_MS) return false;
    while (this.arrivals.length > 0 && atMs - this.arrivals[0]!.atMs > LATENESS_WINDOW_MS) this.arrivals.shift();
    let baseMs = delayMs;
    for (let at = this.arrivals.length - 1; at >= 0; at--) {
      const arrival = this.arrivals[at]!;
      if (atMs - arrival.atMs > BASE_WINDOW_MS) break;
      baseMs = Math.min(baseMs, arrival.delayMs);
    }
    this.baseMs = baseMs;
    this.arrivals.push({ atMs, delayMs, latenessMs: delayMs - baseMs });
    this.adapt(last === undefined ? 0 : atMs - last.atMs);
    return true;
  }

  /** Forgets the base: after a long pause the stream's delay may be another one. Lateness is remembered. */
  restart(): void {
    this.baseMs = undefined;
    for (const arrival of this.arrivals) arrival.delayMs = Infinity;
  }

  private adapt(sinceMs: number): void {
    const sorted = this.arrivals.map((arrival) => arrival.latenessMs).sort((a, b) => a - b);
    const percentile = sorted[Math.ceil(PERCENTILE * sorted.length) - 1]!;
    const wantedMs = Math.min(Math.max(percentile + MARGIN_MS, MIN_TARGET_MS), MAX_TARGET_MS);
    if (wantedMs > this.targetMs) {
      if (this.arrivals.length >= 1 / (1 - PERCENTILE)) this.targetMs = wantedMs; // of fewer, one late one decides
    } else {
      const tooHighMs = this.targetMs - wantedMs;
      const perS = Math.max(SHRINK_MS_PER_S, tooHighMs / SHRINK_TIME_CONSTANT_S);
      this.targetMs -= Math.min(tooHighMs, (perS * Math.min(sinceMs, 1000)) / 1000);
    }
  }
}
