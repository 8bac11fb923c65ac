/** Whether a talk goes on, for what stands around the pages. Small, as every page loads it. */

import { useSyncExternalStore } from "react";

let active = false;
const listeners = new Set<() => void>();

export function setTalkActive(now: boolean): void {
  if (now === active) return;
  active = now;
  for (const listener of listeners) listener();
}

export function useTalkActive(): boolean {
  return useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => active,
  );
}
