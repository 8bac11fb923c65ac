/** Live data of the console: one WebSocket, whatever the number of components that show it. */

import { useSyncExternalStore } from "react";
import { queryClient, sessionQuery } from "./client";
import type { Snapshot } from "./schema";

export type LiveState =
  | { name: "connecting" }
  | { name: "live" }
  /** It is tried again; what is shown is old. */
  | { name: "lost"; tries: number; reason: string }
  /** The session is over: a login is needed. */
  | { name: "logged out" };

export interface Live {
  state: LiveState;
  snapshot: Snapshot | null;
}

const POLICY_VIOLATION = 1008;
const LONGEST_RETRY_MS = 10_000;
/** Five snapshots come a second. After so long without one the connection is dead, whatever the browser says. */
const SILENT_MS = 5000;

class LiveStore {
  private live: Live = { state: { name: "connecting" }, snapshot: null };
  private readonly listeners = new Set<() => void>();
  private socket: WebSocket | null = null;
  private tries = 0;
  private timer = 0;

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    if (this.listeners.size === 1) this.connect();
    return () => {
      this.listeners.delete(listener);
      if (this.listeners.size === 0) this.close();
    };
  };

  readonly get = (): Live => this.live;

  private connect(): void {
    const socket = new WebSocket(`${location.origin.replace(/^http/, "ws")}/api/live`);
    this.socket = socket;
    this.await(socket);
    socket.onmessage = ({ data }: MessageEvent<string>) => {
      if (this.socket !== socket) return;
      this.await(socket);
      const message = JSON.parse(data) as { type: string };
      if (message.type !== "snapshot") return; // of a newer server
      this.tries = 0;
      this.change({ state: { name: "live" }, snapshot: message as Snapshot });
    };
    socket.onclose = ({ code, reason }) => {
      if (this.socket !== socket) return;
      if (code === POLICY_VIOLATION) {
        window.clearTimeout(this.timer);
        this.change({ state: { name: "logged out" } });
      } else this.retry(reason);
    };
  }

  /** Gives a socket up that has been silent for too long. */
  private await(socket: WebSocket): void {
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => {
      if (this.socket === socket) this.retry();
    }, SILENT_MS);
  }

  private retry(reason = ""): void {
    const old = this.socket;
    this.socket = null;
    old?.close();
    this.tries++;
    this.change({ state: { name: "lost", tries: this.tries, reason } });
    // A page is not told why its socket was refused. It may be that the session ended, as with a restart.
    void queryClient.invalidateQueries(sessionQuery);
    window.clearTimeout(this.timer);
    this.timer = window.setTimeout(() => this.connect(), Math.min(500 * 2 ** (this.tries - 1), LONGEST_RETRY_MS));
  }

  private close(): void {
    window.clearTimeout(this.timer);
    const old = this.socket;
    this.socket = null;
    old?.close();
    this.tries = 0;
    this.live = { state: { name: "connecting" }, snapshot: null };
  }

  private change(part: Partial<Live>): void {
    this.live = { ...this.live, ...part };
    for (const listener of this.listeners) listener();
  }
}

const store = new LiveStore();

export function useLive(): Live {
  return useSyncExternalStore(store.subscribe, store.get);
}
