import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { OggOpusReader, OggOpusWriter, packetSamples } from "./ogg.ts";

const packet = fc.uint8Array({ minLength: 1, maxLength: 1300 });
const packets = fc.array(packet, { maxLength: 12 });

function written(all: Uint8Array[]): Uint8Array {
  const writer = new OggOpusWriter(7, 24000, 312);
  return join([writer.headers(), ...all.map((each) => writer.packet(each, 960))]);
}

function join(parts: Uint8Array[]): Uint8Array {
  return Uint8Array.from(parts.flatMap((part) => [...part]));
}

function cut(bytes: Uint8Array, sizes: number[]): Uint8Array[] {
  const parts = [];
  let at = 0;
  for (const size of sizes) {
    parts.push(bytes.slice(at, at + size));
    at += size;
  }
  return [...parts, bytes.slice(at)];
}

describe("Ogg Opus", () => {
  it("reads what it writes, however it is cut", () => {
    fc.assert(
      fc.property(packets, fc.array(fc.integer({ min: 0, max: 400 })), (all, sizes) => {
        const reader = new OggOpusReader();
        const read = cut(written(all), sizes).flatMap((part) => reader.read(part));
        expect(read).toEqual(all);
        expect([reader.badCrc, reader.skippedBytes]).toEqual([0, 0]);
      }),
    );
  });

  it("goes on with the next page after a broken one", () => {
    fc.assert(
      fc.property(
        fc.array(packet, { minLength: 3, maxLength: 6 }),
        fc.nat(),
        fc.integer({ min: 1, max: 255 }),
        (all, where, flip) => {
          const writer = new OggOpusWriter(7, 24000, 312);
          const headers = writer.headers();
          const pages = all.map((each) => writer.packet(each, 960));
          const broken = pages[1]!;
          broken[where % broken.length]! ^= flip;
          const reader = new OggOpusReader();
          // What a broken length makes of a page may reach over the stream's end, so go on for a while.
          const rest = Array.from({ length: 80 }, () => writer.packet(new Uint8Array(1000).fill(9), 960));
          const read = [headers, ...pages, ...rest].flatMap((part) => reader.read(part));
          expect(read[0]).toEqual(all[0]);
          const last = read.slice(-1)[0]!;
          expect(last).toEqual(new Uint8Array(1000).fill(9));
          expect(read.length).toBeGreaterThan(all.length);
        },
      ),
    );
  });

  it("takes any bytes without an error, and keeps a bounded part of them", () => {
    fc.assert(
      fc.property(fc.array(fc.uint8Array({ maxLength: 300 })), (parts) => {
        const reader = new OggOpusReader();
        for (const part of parts) reader.read(part);
      }),
    );
  });

  it("joins a packet that is continued on the next page", () => {
    const long = new Uint8Array(255 * 3 + 10).map((_, at) => at);
    const writer = new OggOpusWriter(7, 24000, 312);
    const whole = writer.packet(long, 960);
    const [first, second] = splitPage(whole);
    const reader = new OggOpusReader();
    expect(reader.read(first)).toEqual([]);
    expect(reader.read(second)).toEqual([long]);
  });

  it("knows how long packets last", () => {
    expect(packetSamples(Uint8Array.of(0b11111_0_00))).toBe(960); // CELT, fullband, 20 ms
    expect(packetSamples(Uint8Array.of(0b01011_0_01))).toBe(5760); // SILK, two frames of 60 ms
    expect(packetSamples(Uint8Array.of(0b01001_0_11, 4))).toBe(3840); // 80 ms, as NVIDIA's server sends it
    expect(packetSamples(Uint8Array.of(0b01011_0_11, 3))).toBe(0); // 180 ms: not allowed
    expect(packetSamples(new Uint8Array(0))).toBe(0);
  });
});

/** Puts the first two segments of a page's packet on one page and the rest on another. */
function splitPage(page: Uint8Array): [Uint8Array, Uint8Array] {
  const segments = page[26]!;
  const body = page.slice(27 + segments);
  const parts: Uint8Array[] = [];
  for (const [from, to, flags] of [
    [0, 2, 0],
    [2, segments, 1],
  ] as const) {
    const lacing = page.slice(27 + from, 27 + to);
    const part = body.slice(from * 255, Math.min(to * 255, body.length));
    const header = page.slice(0, 27);
    header[5] = flags;
    header[26] = to - from;
    header.fill(0, 22, 26);
    const made = join([header, lacing, part]);
    let crc = 0;
    for (const byte of made) {
      crc ^= byte << 24;
      for (let bit = 0; bit < 8; bit++) crc = crc & 0x80000000 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
    }
    new DataView(made.buffer).setUint32(22, crc >>> 0, true);
    parts.push(made);
  }
  return [parts[0]!, parts[1]!];
}
