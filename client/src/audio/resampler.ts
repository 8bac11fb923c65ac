/** Changes the rate of a stream of samples by a windowed sinc. Rates that are equal cost nothing. */

/** Zero crossings on each side: enough for voice, 60 dB of rejection. */
const CROSSINGS = 12;
const STEPS = 512;

/** Half of the kernel, sinc times a Hann window, in steps of a crossing. */
const KERNEL = Float32Array.from({ length: CROSSINGS * STEPS + 2 }, (_, step) => {
  const x = step / STEPS;
  if (x >= CROSSINGS) return 0;
  const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / CROSSINGS);
  return window * (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
});

export class Resampler {
  private kept: Float32Array;
  /** Where the next sample lies in `kept`, in samples of the input. */
  private position: number;
  private readonly step: number;
  private readonly cutoff: number;
  private readonly reach: number;

  constructor(
    private readonly fromHz: number,
    private readonly toHz: number,
  ) {
    this.step = fromHz / toHz;
    this.cutoff = Math.min(1, toHz / fromHz);
    this.reach = Math.ceil(CROSSINGS / this.cutoff);
    this.kept = new Float32Array(this.reach);
    this.position = this.reach;
  }

  process(pcm: Float32Array): Float32Array {
    if (this.fromHz === this.toHz) return pcm;
    const input = new Float32Array(this.kept.length + pcm.length);
    input.set(this.kept);
    input.set(pcm, this.kept.length);
    const count = Math.max(0, Math.ceil((input.length - this.reach - this.position) / this.step));
    const out = new Float32Array(count);
    for (let at = 0; at < count; at++) {
      const centre = this.position + at * this.step;
      let sum = 0;
      for (let index = Math.ceil(centre - this.reach); index < centre + this.reach; index++) {
        const place = Math.abs(index - centre) * this.cutoff * STEPS;
        const below = Math.floor(place);
        if (below >= CROSSINGS * STEPS) continue;
        const weight = KERNEL[below]! + (place - below) * (KERNEL[below + 1]! - KERNEL[below]!);
        sum += weight * (input[index] ?? 0);
      }
      out[at] = sum * this.cutoff;
    }
    const next = this.position + count * this.step;
    const from = Math.max(0, Math.floor(next) - this.reach);
    this.kept = input.slice(from);
    this.position = next - from;
    return out;
  }
}
