import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Kind, parseMessage, TextReader } from "./chat-wire.ts";

const utf8 = (text: string) => new TextEncoder().encode(text);
const metadata = (text: string) => parseMessage(Uint8Array.of(Kind.metadata, ...utf8(text)));

describe("the wire", () => {
  it("takes any bytes without an error", () => {
    fc.assert(fc.property(fc.uint8Array({ maxLength: 60 }), (bytes) => void parseMessage(bytes)));
    fc.assert(fc.property(fc.json(), (json) => void metadata(json)));
  });

  it("reads what servers tell, and nothing misshapen", () => {
    expect(metadata('{"queue":{"place":3}}')).toEqual({ kind: Kind.metadata, metadata: { place: 3 } });
    expect(metadata('{"queue":{"place":"3"},"agent":"lost"}')).toEqual({ kind: Kind.metadata, metadata: { agent: "lost" } });
    expect(metadata('{"call":{"id":"abc","recorded":true}}')).toEqual({
      kind: Kind.metadata,
      metadata: { callId: "abc", recorded: true },
    });
    expect(metadata("[1]")).toBeNull();
    expect(parseMessage(Uint8Array.of(99))).toBeNull();
    expect(parseMessage(new Uint8Array(0))).toBeNull();
  });

  it("makes text of pieces, and characters of bytes", () => {
    const reader = new TextReader();
    const pieces = ["\u2581caf", "<0xC3>", "<0xA9>", "\u2581au", "\u2581lait"];
    expect(pieces.map((piece) => reader.read(utf8(piece)))).toEqual([" caf", "", "é", " au", " lait"]);
  });
});
