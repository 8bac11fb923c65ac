import { beforeEach, describe, expect, it } from "vitest";
import { Kind } from "./chat-wire.ts";
import type { CodecOutput } from "./codec.ts";
import { Conversation, type ConversationEvent, type SocketHandlers, type TalkState } from "./conversation.ts";
import { OggOpusReader, OggOpusWriter } from "./ogg.ts";

const PACKET = Uint8Array.of(0b11111_0_00, 1, 2, 3);

class Peer {
  sent: Uint8Array[] = [];
  closedWith: number | null = null;
  waitingBytes = 0;
  constructor(readonly to: SocketHandlers) {}
  send(message: Uint8Array): void {
    this.sent.push(message);
  }
  close(code: number): void {
    this.closedWith ??= code;
  }
  tells(kind: number, payload: Uint8Array | object = new Uint8Array(0)): void {
    const bytes = payload instanceof Uint8Array ? payload : new TextEncoder().encode(JSON.stringify(payload));
    this.to.message(Uint8Array.of(kind, ...bytes));
  }
  get kinds(): number[] {
    return this.sent.map((message) => message[0]!);
  }
}

class Scene {
  peers: Peer[] = [];
  events: ConversationEvent[] = [];
  played: Float32Array[] = [];
  timers: { atMs: number; callback: () => void }[] = [];
  nowMs = 0;
  talk = new Conversation({
    connect: (handlers) => {
      const peer = new Peer(handlers);
      this.peers.push(peer);
      return peer;
    },
    makeCodec: async (output: CodecOutput) => ({
      name: "WebCodecs" as const,
      encode: () => output.packet(PACKET),
      decode: (packet: Uint8Array) => output.sound(Float32Array.from(packet)),
      close: () => undefined,
    }),
    nowMs: () => this.nowMs,
    after: (ms, callback) => {
      const timer = { atMs: this.nowMs + ms, callback };
      this.timers.push(timer);
      return () => (this.timers = this.timers.filter((each) => each !== timer));
    },
    tell: (event) => this.events.push(event),
    play: (pcm) => this.played.push(pcm),
    clear: () => (this.played = []),
  });

  pass(ms: number): void {
    const until = this.nowMs + ms;
    for (;;) {
      const due = this.timers.filter((timer) => timer.atMs <= until).sort((a, b) => a.atMs - b.atMs)[0];
      if (!due) break;
      this.timers = this.timers.filter((timer) => timer !== due);
      this.nowMs = due.atMs;
      due.callback();
    }
    this.nowMs = until;
  }
  get peer(): Peer {
    return this.peers.at(-1)!;
  }
  get state(): TalkState {
    return this.events.flatMap((event) => (event.type === "state" ? [event.state] : [])).at(-1)!;
  }
  speak(): void {
    this.talk.hear(new Float32Array(960));
  }
}

let scene: Scene;
beforeEach(async () => {
  scene = new Scene();
  await scene.talk.start();
});

function live(): void {
  scene.peer.to.opened();
  scene.peer.tells(Kind.handshake);
}

describe("a conversation", () => {
  it("sends nothing before the handshake, then the headers, then sound", () => {
    scene.peer.to.opened();
    scene.speak();
    expect(scene.peer.sent).toEqual([]);
    scene.peer.tells(Kind.handshake);
    scene.speak();
    expect(scene.peer.kinds).toEqual([Kind.audio, Kind.audio]);
    const text = new TextDecoder("latin1").decode(scene.peer.sent[0]);
    expect(text).toContain("OpusHead");
    expect(text).toContain("OpusTags");
    const reader = new OggOpusReader();
    expect(scene.peer.sent.flatMap((message) => reader.read(message.subarray(1)))).toEqual([PACKET]);
  });

  it("tells its place in the queue, and when it is over", () => {
    scene.peer.to.opened();
    expect(scene.state).toEqual({ name: "preparing" });
    scene.peer.tells(Kind.metadata, { queue: { place: 2 } });
    expect(scene.state).toEqual({ name: "queued", place: 2 });
    scene.peer.tells(Kind.handshake);
    expect(scene.state).toEqual({ name: "listening", agentLost: false, stalled: false });
  });

  it("plays what comes before the handshake, as a bridge's greeting does", () => {
    scene.peer.to.opened();
    const writer = new OggOpusWriter(1, 24000, 0);
    scene.peer.tells(Kind.audio, writer.headers());
    scene.peer.tells(Kind.audio, writer.packet(PACKET, 960));
    expect(scene.played).toEqual([Float32Array.from(PACKET)]);
  });

  it("drops what was not played when the bridge says so", () => {
    live();
    const writer = new OggOpusWriter(1, 24000, 0);
    scene.peer.tells(Kind.audio, writer.packet(PACKET, 960));
    scene.peer.tells(Kind.metadata, { clear: true });
    expect(scene.played).toEqual([]);
  });

  it("says that the agent was lost, and that it is back", () => {
    live();
    scene.peer.tells(Kind.metadata, { agent: "lost" });
    expect(scene.state).toMatchObject({ name: "listening", agentLost: true });
    scene.peer.tells(Kind.metadata, { agent: "back" });
    expect(scene.state).toMatchObject({ name: "listening", agentLost: false });
  });

  it("says that the connection stalls, and that it does not any more", () => {
    live();
    scene.pass(5000);
    expect(scene.state).toMatchObject({ stalled: true });
    scene.peer.tells(Kind.text, new TextEncoder().encode("yes"));
    expect(scene.state).toMatchObject({ stalled: false });
  });

  it("connects anew when a live connection is lost, with headers of a new stream, and gives up in the end", () => {
    live();
    scene.peer.to.closed(1006, "");
    expect(scene.state).toEqual({ name: "reconnecting", attempt: 1 });
    scene.speak();
    scene.pass(500);
    expect(scene.peers).toHaveLength(2);
    live();
    expect(scene.state).toMatchObject({ name: "listening" });
    expect(scene.peer.kinds).toEqual([Kind.audio]);
    scene.pass(11_000);
    for (let attempt = 0; attempt < 6; attempt++) {
      scene.peer.to.closed(1006, "");
      scene.pass(8000);
    }
    expect(scene.state).toMatchObject({ name: "ended", isFault: true });
    expect(scene.peers).toHaveLength(7);
  });

  it.each([1006, 1011, 1012])("waits longer each time, and gives up, when an engine drops each connection after its handshake: %i", (code) => {
    const waitsMs: number[] = [];
    const dropAfterHandshake = () => {
      live();
      scene.pass(1000);
      scene.peer.to.closed(code, "");
    };
    dropAfterHandshake();
    while (scene.state.name === "reconnecting" && waitsMs.length < 20) {
      const lostAtMs = scene.nowMs;
      for (const count = scene.peers.length; scene.peers.length === count; ) scene.pass(100);
      waitsMs.push(scene.nowMs - lostAtMs);
      dropAfterHandshake();
    }
    expect(waitsMs).toEqual([500, 1000, 2000, 4000, 8000]);
    expect(scene.state).toMatchObject({ name: "ended", isFault: true });
  });

  it("forgets earlier attempts once a connection has been live for some seconds", () => {
    live();
    for (let lost = 0; lost < 8; lost++) {
      scene.pass(11_000);
      scene.peer.to.closed(1006, "");
      expect(scene.state).toEqual({ name: "reconnecting", attempt: 1 });
      scene.pass(500);
      live();
    }
  });

  it("does not connect anew after a refusal, and says why", () => {
    scene.peer.to.opened();
    scene.peer.tells(Kind.error, new TextEncoder().encode("all 2 engines are taken"));
    scene.peer.to.closed(1013, "full");
    expect(scene.state).toEqual({ name: "ended", isFault: true, reason: "all 2 engines are taken" });
    scene.pass(60_000);
    expect(scene.peers).toHaveLength(1);
  });

  it.each([
    ["", "The agent ended the call."],
    ["the persona's longest call is over", "The persona's longest call is over."],
    ["ended by the operator asha", "An operator ended the call."],
  ])("ends well when the other side ends it: %j", (reason, told) => {
    live();
    scene.peer.to.closed(1000, reason);
    expect(scene.state).toEqual({ name: "ended", isFault: false, reason: told });
  });

  it("closes its socket when the caller hangs up, in each state", () => {
    scene.talk.hangUp();
    expect(scene.peer.closedWith).toBe(1000);
    expect(scene.timers).toEqual([]);
    expect(scene.state).toMatchObject({ name: "ended", isFault: false });
    scene.peer.to.opened();
    expect(scene.state.name).toBe("ended");
  });

  it("gives up when nothing answers", () => {
    scene.pass(20_000);
    expect(scene.state).toMatchObject({ name: "ended", isFault: true });
  });

  it("measures the round trip, and leaves a server alone that answers no pings", () => {
    live();
    scene.pass(1000);
    scene.nowMs += 40;
    scene.peer.tells(Kind.ping);
    expect(scene.talk.figures.roundTripMs).toBe(40);
    scene.pass(20_000);
    expect(scene.peer.kinds.filter((kind) => kind === Kind.ping)).toHaveLength(6);
  });

  it("drops sound instead of queueing it when the network is too slow", () => {
    live();
    scene.peer.waitingBytes = 100_000;
    scene.speak();
    expect(scene.talk.figures).toMatchObject({ sentPackets: 0, unsentPackets: 1 });
  });
});
