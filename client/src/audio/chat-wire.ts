/**
 * PersonaPlex's wire: binary WebSocket messages of `/api/chat`, parsed and built without a socket.
 *
 * A message is one byte for its kind, then a payload. See `python/pxbridge/chat_wire.py`, its other end.
 */

export const Kind = {
  /** From the engine, once: it has read its prompts, and audio may be sent. */
  handshake: 0,
  /** Both ways: bytes of an Ogg Opus stream. */
  audio: 1,
  /** From the engine: a piece of the agent's text, in UTF-8. */
  text: 2,
  control: 3,
  /** JSON. */
  metadata: 4,
  /** From the engine: why it cannot go on, for people. */
  error: 5,
  ping: 6,
} as const;

export type Kind = (typeof Kind)[keyof typeof Kind];

export type Message =
  | { kind: typeof Kind.handshake }
  | { kind: typeof Kind.audio; ogg: Uint8Array }
  | { kind: typeof Kind.text; payload: Uint8Array }
  | { kind: typeof Kind.control }
  | { kind: typeof Kind.metadata; metadata: Metadata }
  | { kind: typeof Kind.error; reason: string }
  | { kind: typeof Kind.ping };

/** What servers tell in metadata. Keys that are missing or misshapen are undefined. */
export interface Metadata {
  /** Place in the queue; 1 is next. */
  place?: number;
  /** The agent was lost in mid-call, or another one goes on. */
  agent?: "lost" | "back";
  /** What was not played yet is to be dropped: the agent was interrupted. */
  clear?: boolean;
  callId?: string;
  recorded?: boolean;
}

/** Parses a message; null for one that is empty, of an unknown kind, or broken. */
export function parseMessage(bytes: Uint8Array): Message | null {
  const payload = bytes.subarray(1);
  switch (bytes[0]) {
    case Kind.handshake:
      return { kind: Kind.handshake };
    case Kind.audio:
      return { kind: Kind.audio, ogg: payload };
    case Kind.text:
      return { kind: Kind.text, payload };
    case Kind.control:
      return { kind: Kind.control };
    case Kind.metadata: {
      const metadata = parseMetadata(payload);
      return metadata === null ? null : { kind: Kind.metadata, metadata };
    }
    case Kind.error:
      return { kind: Kind.error, reason: new TextDecoder().decode(payload) };
    case Kind.ping:
      return { kind: Kind.ping };
    default:
      return null;
  }
}

function parseMetadata(payload: Uint8Array): Metadata | null {
  let told: unknown;
  try {
    told = JSON.parse(new TextDecoder().decode(payload));
  } catch {
    return null;
  }
  if (!isRecord(told)) return null;
  const metadata: Metadata = {};
  if (isRecord(told.queue) && Number.isInteger(told.queue.place)) metadata.place = told.queue.place as number;
  if (told.agent === "lost" || told.agent === "back") metadata.agent = told.agent;
  if (told.clear === true) metadata.clear = true;
  if (isRecord(told.call)) {
    if (typeof told.call.id === "string") metadata.callId = told.call.id;
    if (typeof told.call.recorded === "boolean") metadata.recorded = told.call.recorded;
  }
  return metadata;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Builds an audio message of bytes of the sender's Ogg stream. */
export function audioMessage(ogg: Uint8Array): Uint8Array<ArrayBuffer> {
  const message = new Uint8Array(1 + ogg.length);
  message[0] = Kind.audio;
  message.set(ogg, 1);
  return message;
}

export function pingMessage(): Uint8Array<ArrayBuffer> {
  return Uint8Array.of(Kind.ping);
}

const BYTE_PIECE = /^<0x([0-9A-Fa-f]{2})>$/;

/**
 * Decodes text payloads. SentencePiece writes a space as U+2581, and spells a character without a piece of its
 * own in bytes: "é" may come as <0xC3>, <0xA9>. Such a character is returned with the last of its messages.
 */
export class TextReader {
  private bytes = new TextDecoder();

  read(payload: Uint8Array): string {
    const piece = new TextDecoder().decode(payload);
    const byte = BYTE_PIECE.exec(piece);
    if (byte) return this.bytes.decode(Uint8Array.of(parseInt(byte[1]!, 16)), { stream: true });
    const brokenOff = this.bytes.decode();
    return brokenOff + piece.replaceAll("\u2581", " ");
  }
}
