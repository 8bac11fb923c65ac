/** The worklet and the worker exchange blocks of this length: one Opus packet. */
export const BLOCK_MS = 20;
